"""What asv follows from commit to commit runs on this code: every benchmark, with two of the layers."""

from __future__ import annotations

import itertools
import json
import runpy
from pathlib import Path

from preimage.geometry import ConvGeometry
from preimage.settings import thread_count

ROOT = Path(__file__).parents[2]


def test_every_benchmark_runs_and_leaves_the_settings_as_they_were() -> None:
    asked = json.loads((ROOT / "asv.conf.json").read_text())
    suite = runpy.run_path(str(ROOT / asked["benchmark_dir"] / "suite.py"))
    before, count = thread_count(), 0
    for kind in (suite["Contractions"], suite["Nets"], suite["Small"]):
        for values in itertools.product(*(p[1:4:2] for p in getattr(kind, "params", ()))):
            case = kind()
            case.setup(*values)
            for name in dir(case):
                if name.startswith(("time_", "peakmem_")):
                    getattr(case, name)(*values)
                    count += 1
            case.teardown(*values)
    assert count == 3 * 2 + 3 + 2
    for x, w, options in suite["LAYERS"].values():
        assert ConvGeometry.from_conv(x, w, **options).work_flop > 1e6
    assert thread_count() == before
    compile(suite["timeraw_import"](), "import", "exec")
