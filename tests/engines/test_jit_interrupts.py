"""What a signal handler raises in the middle of compiling leaves nothing behind that ends the process later."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from preimage.engines.jit.compiler.helpers import held_signals

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="timers by signals are POSIX")

STORM = """
import gc, random, signal
from preimage.engines.jit.compiler import toolchain

TEXT = '''
define void @kernel(ptr %p) {{
  store i64 {}, ptr %p
  ret void
}}
'''

class Stop(BaseException):
    pass

def stop(*_):
    raise Stop

signal.signal(signal.SIGALRM, stop)
numbers, stopped = random.Random(0), 0
for k in range(1200):
    try:
        signal.setitimer(signal.ITIMER_REAL, numbers.random() * 5e-4 + 1e-6)
        codes = toolchain.object_codes([toolchain.Work(TEXT.format(k), toolchain.current_target())], 1)
        toolchain.load_object(codes[0])
        signal.setitimer(signal.ITIMER_REAL, 0)
    except Stop:
        stopped += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    if k % 100 == 0:
        gc.collect()
print("stopped", stopped)
"""


def test_interrupted_compilations_do_not_end_the_process_later() -> None:
    done = subprocess.run([sys.executable, "-c", STORM], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[1]) > 40


def test_held_signals_come_when_the_block_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    before = signal.signal(signal.SIGALRM, lambda *_: seen.append("signal"))
    try:
        with held_signals():
            signal.raise_signal(signal.SIGALRM)
            seen.append("block")
        seen.append("end")
    finally:
        signal.signal(signal.SIGALRM, before)
    assert seen == ["block", "signal", "end"]
