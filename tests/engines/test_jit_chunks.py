"""How work is shared out: rows in chunks, every row once and the stride phases of a transpose apart; tasks among the threads."""

from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest

from preimage.engines.ir.epilogue import EpilogueArguments
from preimage.engines.jit.compiler import kernels
from preimage.engines.jit.conv import direct
from preimage.engines.jit.conv.across_pixels_arguments import AcrossPixelsArguments
from preimage.engines.jit.conv.direct_kernel import DirectArguments
from preimage.engines.jit.depthwise.channels_first_kernel import ChannelsFirstArguments
from preimage.engines.jit.depthwise.channels_last_kernel import ChannelsLastArguments
from preimage.engines.jit.depthwise.upsample_kernel import UpsampleArguments
from preimage.engines.jit.engine import JitEngine
from preimage.engines.jit.index.taps import fold_phases
from preimage.engines.jit.packing.copy_kernel import SwapArguments
from preimage.engines.jit.program import operands
from preimage.engines.jit.request import little_work
from preimage.engines.jit.runtime import pool
from preimage.engines.jit.select import lower
from preimage.geometry import ConvGeometry
from preimage.settings import config

JIT = JitEngine()
pytestmark = pytest.mark.skipif(JIT.unavailable() is not None, reason=str(JIT.unavailable()))

CASES = {
    "folded": ConvGeometry.from_conv_transpose((1, 21, 40, 38), (21, 21, 16, 16), stride=8),
    "phase by phase": ConvGeometry.from_conv_transpose((2, 64, 24, 25), (64, 48, 4, 4), stride=2),
}


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_chunks_have_every_row_once_and_one_stride_phase_each(name, n_threads, monkeypatch):
    g = CASES[name]
    given = []

    def keep(costs, rows, *others):
        given.append(rows)
        return share(costs, rows, *others)

    share = direct._share
    monkeypatch.setattr(direct, "_share", keep)
    with config(threads=n_threads), little_work(0):
        request = JIT.request(g, "conv_transpose", np.dtype("float32"), channels_last=True)
        program = lower(replace(request, prepared=True, target=kernels.named_target("avx512")))  # where both ways are taken
    call = program.calls[-1]
    rows, lists, taps, nodes, bounds = (call.values()[name].array for name in ("rows", "lists", "taps", "nodes", "chunk_rows"))

    def items(node, depth):
        """The entries of the table of taps under a node."""
        if depth <= call.spec.lone:
            return [node]
        return [k for child in range(nodes["first"][node], nodes["end"][node]) for k in items(child, depth - 1)]

    def tiles(table):
        return sorted((a, b, c, k) for a, b, c, first, end, *_ in table.tolist() for k in range(first, end))

    assert tiles(rows) == tiles(given[0])
    assert bounds[0] == 0
    assert bounds[-1] == len(rows)
    folded = fold_phases(g)
    assert folded is not None
    assert (program.bias_repeat > 1) is (name == "folded")
    line = folded.axis.kernel if name == "folded" else g.kernel_size[-1]
    tap_bytes = call.integer(DirectArguments.block_bytes) // (g.kernel_size[0] * line)
    for begin, end in pairwise(bounds):
        phases = set()
        for row in rows[begin:end]:
            entries = [k for member in range(*lists[row["first_list"]]) for k in items(member, call.spec.depth)]
            phases |= set((taps["weight"][entries] // tap_bytes // line % g.stride[0]).tolist())
        assert len(phases) == 1


#: owner[task] = 1 + the thread's number, after some work
OWNER = """
define void @kernel(ptr %args, i64 %task, i64 %thread) {
entry:
  %base = load ptr, ptr %args
  %at = getelementptr i64, ptr %base, i64 %task
  %mine = add i64 %thread, 1
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %next = add i64 %i, 1
  store volatile i64 %mine, ptr %at
  %more = icmp slt i64 %next, 3000
  br i1 %more, label %loop, label %done
done:
  ret void
}
"""


@pytest.mark.parametrize("n_threads", [2, 3])
def test_the_caller_takes_tasks_in_front_and_workers_behind(n_threads):
    kernel = kernels.compile_module(OWNER, "owner")
    for tasks in (1, 2, 3, 50):
        owner = np.zeros(tasks, np.int64)
        pool.launch(kernel, pool.pack_args(owner.ctypes.data), tasks, n_threads)
        assert owner.min() >= 1
        assert owner.max() <= n_threads
        mine = int((owner == 1).sum())
        assert (owner[:mine] == 1).all()
        assert (owner[mine:] > 1).all()


def test_blocks_are_swept_where_threads_share_them_evenly_or_packing_is_most_of_the_work() -> None:
    from preimage.engines.jit.compiler.costs import AVX512
    from preimage.engines.jit.conv import streamed_weights

    streams_weights = partial(streamed_weights.streams_weights, AVX512.streaming)

    large = 4 << 20
    assert streams_weights(6, 2, large, positions=3136)
    assert not streams_weights(5, 2, large, positions=3136)  # one thread would have three of five blocks
    assert streams_weights(5, 2, large, positions=16)
    assert not streams_weights(3, 2, large, positions=16)
    assert streams_weights(5, 1, large, positions=3136)
    assert not streams_weights(6, 2, 100 << 10, positions=16)


@pytest.mark.parametrize(
    "vector",
    [
        SwapArguments,
        DirectArguments,
        AcrossPixelsArguments,
        ChannelsLastArguments,
        ChannelsFirstArguments,
        UpsampleArguments,
    ],
)
def test_an_epilogue_finds_its_arguments_in_every_vector(vector) -> None:
    """Its fields have the same places in all of them, and `operands` names them."""
    assert list(operands()) == list(EpilogueArguments.fields)
    for name, field in EpilogueArguments.fields.items():
        assert vector.fields[name].slot == field.slot
