"""Keeping the pool's workers off the CPU that their caller runs on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from preimage.engines.ir.builder import Ptr
from preimage.engines.ir.functions import I32, Function

if TYPE_CHECKING:
    from preimage.engines.jit.runtime.pool_ir import Words

__all__ = ["CPU_SET", "place_function"]

CPU_SET = 128  # bytes of a cpu_set_t


def place_function(words_of: type[Words]) -> Function:
    """`place(pool)`: the workers may run where the caller may, but on its own CPU only if there is no other. Linux alone has the calls.

    A worker that is woken may be put on the CPU that the caller keeps busy, although another is idle (Linux, few CPUs: measured
    on two, where both then shared one CPU for tens of ms). So whenever the caller is found on another CPU than at its last job, or may
    run on other CPUs than then, the workers may run on all of its CPUs but that one.
    """
    f = Function("place", "void", internal=True, pool="ptr")
    words, size = words_of(f.parameter("pool")), f.i64(CPU_SET)
    cpus, left = f.stack("i64", CPU_SET // 8), f.cell(0)
    cpu = f.call_c("sched_getcpu", "i32")
    with f.loop(0, CPU_SET // 8) as k:
        cpus.at(k.index).store_int(0)
    got = f.call_c("sched_getaffinity", "i32", I32(0), size, cpus)
    with f.when((got < 0) | cpu.below(8 * CPU_SET).negated()):
        f.give()
    moved = cpu.equals(words.cpu.load_int()).negated()
    others = f.call_c("memcmp", "i32", words.mask, cpus, size).equals(0).negated()
    with f.when((moved | others).negated()):
        f.give()
    words.cpu.store_int(cpu)
    own = cpus.at(cpu >> 6)
    with f.loop(0, CPU_SET // 8) as k:
        words.mask.at(k.index).store_int(cpus.at(k.index).load_int())
    with_caller = own.load_int()
    own.store_int(with_caller & (f.i64(-1) - (f.i64(1) << (cpu & 63))))
    with f.loop(0, CPU_SET // 8) as k:
        left.store_int(left.load_int() | cpus.at(k.index).load_int())
    with f.when(left.load_int().equals(0)):  # there is no other CPU
        own.store_int(with_caller)
    with f.loop(0, words.workers.load_int()) as k:
        _set_affinity(f, words.threads.at(k.index), cpus)
    return f


def _set_affinity(f: Function, thread: Ptr, cpus: Ptr) -> None:
    f.call_c("pthread_setaffinity_np", "i32", thread.load_int(), f.i64(CPU_SET), cpus)
