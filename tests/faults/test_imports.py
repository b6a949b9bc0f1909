"""Imports on first use that meet the lock of the package, other imports and forks: none waits for another for ever.

Each runs in a process of its own, with a deadline.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from preimage.locks import LOCK, import_apart

__all__ = ["import_apart"]  # for the blocks
pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
DEADLINE_S = 30

#: Modules of the tests, by name.
MODULES = {
    "takes_lock": "from preimage.locks import LOCK\nwith LOCK:\n    value = 7\n",
    "imports_apart": "from preimage.locks import import_apart\nvalue = import_apart('takes_lock').value\n",
    "imports_locked": "from preimage.locks import LOCK, import_apart\nwith LOCK:\n    value = import_apart('takes_lock').value\n",
    "needs_slow": "import events\nevents.needed.set()\nimport slow\nvalue = slow.value\n",
    # It goes on when the other thread waits for it, and takes LOCK then.
    "slow": "import events, time\nfrom preimage.locks import LOCK\nevents.begun.set()\nevents.needed.wait()\ntime.sleep(0.05)\n"
    "with LOCK:\n    value = 7\n",
    "events": "import threading\nbegun, needed = threading.Event(), threading.Event()\n",
    "asks_a_thread": "import threading\nfrom preimage.locks import LOCK\ndef take():\n    with LOCK: pass\n"
    "thread = threading.Thread(target=take)\nthread.start()\nthread.join()\nvalue = 7\n",
    "long": "import events, time\nevents.begun.set()\nevents.needed.wait(0.3)\nvalue = 7\n",
    "forks": "import os\nchild = os.fork()\nif child: assert os.waitpid(child, 0)[1] == 0\n"
    "else:\n    import takes_lock\n    os._exit(0)\nvalue = 7\n",
    "fails": "from preimage.locks import LOCK\nwith LOCK:\n    raise RuntimeError('no')\n",
}

BLOCKS = {
    "a module takes the lock": "assert import_apart('takes_lock').value == 7",
    "so does one that it imports": "assert import_apart('imports_apart').value == 7",
    "it imports another one while it has the lock": "assert import_apart('imports_locked').value == 7",
    "its caller has the lock, twice": """
with LOCK, LOCK:
    assert import_apart('takes_lock').value == 7
    assert not other_gets_it()
""",
    "a thread of its own takes it": "with LOCK:\n    assert import_apart('asks_a_thread').value == 7",
    "another thread is importing what it needs, and wants the lock": """
import events
thread = threading.Thread(target=lambda: __import__('slow'))
thread.start()
events.begun.wait()
with LOCK:
    assert import_apart('needs_slow').value == 7
thread.join()
""",
    "many threads want it": """
found = []
threads = [threading.Thread(target=lambda: found.append(import_apart('imports_locked').value)) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert found == [7] * 8
""",
    "a fork by another thread waits for it": """
import events
thread = threading.Thread(target=lambda: import_apart('long'))
thread.start()
events.begun.wait()
in_child(lambda: import_apart('long').value == 7)
thread.join()
""",
    "a fork by a handler of the thread that waits": """
import events
handled = []
def handler(*_):
    in_child(lambda: import_apart('long').value == 7)
    handled.append(1)
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.05)
with LOCK:
    assert import_apart('long').value == 7
assert handled
""",
    "a handler's child goes on": """
import events
children = []
def handler(*_):
    children.append(os.fork())
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.05)
assert import_apart('long').value == import_apart('takes_lock').value == 7
if children == [0]:
    os._exit(0)
assert os.waitpid(children[0], 0)[1] == 0
""",
    "it forks": "assert import_apart('forks').value == 7\nin_child(lambda: True)",
    "it fails": """
for _ in range(2):
    try:
        import_apart('fails')
    except RuntimeError:
        assert 'fails' not in sys.modules
    else:
        raise AssertionError
in_child(lambda: import_apart('takes_lock').value == 7)
""",
    "a signal handler raises meanwhile": """
def handler(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.05)
try:
    with LOCK:
        import_apart('long')
except KeyboardInterrupt:
    pass
else:
    raise AssertionError
assert sys.modules['long'].value == 7  # the end of an import is waited for
in_child(lambda: import_apart('takes_lock').value == 7)
""",
}


def other_gets_it() -> bool:
    """Whether another thread can take LOCK."""
    found: list[bool] = []

    def look() -> None:
        found.append(LOCK.acquire(False))
        if found[0]:
            LOCK.release()

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    return found[0]


def in_child(right: Callable[[], bool]) -> None:
    child = os.fork()
    if not child:
        signal.setitimer(signal.ITIMER_REAL, 0)
        os._exit(0 if right() else 3)
    assert os.waitpid(child, 0)[1] == 0


def run(code: str, folder: Path) -> None:
    """In a process that ends with it."""
    os.setsid()  # so that its children end with it too
    sys.path.insert(0, str(folder))
    status = 1
    try:
        exec(code, {**globals(), "sys": sys, "time": time})
        assert gc.isenabled()
        assert other_gets_it()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("modules")
    for name, text in MODULES.items():
        (place / f"{name}.py").write_text(text)
    return place


@pytest.mark.parametrize("name", BLOCKS)
def test_imports_end(name: str, folder: Path) -> None:
    child = os.fork()
    if not child:
        run(BLOCKS[name], folder)
    status, end = None, time.monotonic() + DEADLINE_S
    while status is None and time.monotonic() < end:
        done, code = os.waitpid(child, os.WNOHANG)
        status = code if done else None
        time.sleep(0.005)
    if status is None:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert status is not None, "it hangs"
    assert status == 0
