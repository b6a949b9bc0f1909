"""A kernel of a GPU in the words of `engines/ir`, written once for two targets: LLVM's NVPTX back end, and the simulator.

    f = GpuKernel("ptx", spec)
    f.thread_number, f.block(0)                      # this thread of its block, this block of the grid: 32-bit integers
    f.shared("f32")                                  # the memory that the block's threads share
    f.barrier()
    f.copy_async(to, source, 16, f.i32(16)); f.commit(); f.wait_group(2)

What differs between the targets is in this file alone: the primitives below. All that a schedule computes (addresses, conditions,
sums) is the same text, so what the simulator shows of order, bounds, barriers and bits is shown of the text that the GPU's
compiler gets. Arguments are the words of an argument vector, as on the CPU, but passed one by one.
"""

from __future__ import annotations

from collections.abc import Sequence

from preimage.engines.cuda import coroutines
from preimage.engines.cuda.device import KernelSpec, Target
from preimage.engines.ir.arguments import Integer
from preimage.engines.ir.builder import Bit, Int, Int32, Kernel, Loop, Num, Ptr
from preimage.engines.ir.types import ELEMENT_BYTES, TYPES, type_of
from preimage.errors import EngineError

__all__ = ["GLOBAL", "SHARED", "GpuKernel"]

#: Address spaces, as NVPTX numbers them.
GLOBAL, SHARED = 1, 3


class GpuKernel(Kernel):
    """One kernel under construction. `module` is its text."""

    def __init__(self, target: Target, spec: KernelSpec) -> None:
        super().__init__()
        self.target, self.spec = target, spec
        if target == "ptx":
            self.thread_number = self._special("tid.x")
            self._blocks = [self._special(f"ctaid.{axis}") for axis in "xyz"]
            self._grid = self._special("nctaid.x")
        else:
            self.thread_number = Int32(self, "%tid")
            self._blocks = [Int32(self, f"%block{axis}") for axis in "xyz"]
            self._grid = Int32(self, "%gridx")

    def _special(self, register: str) -> Int32:
        return Int32(self, self.call_intrinsic(f"llvm.nvvm.read.ptx.sreg.{register}", "i32"))

    # ---- arguments, numbers, places

    def int_arg(self, slot: Int | int) -> Int:
        assert isinstance(slot, int)
        return Int(self, f"%a{slot}")

    def ptr_arg(self, slot: Int | int, element: str) -> Ptr:
        assert isinstance(slot, int)
        return Ptr(self, f"%a{slot}", element, 0, GLOBAL)

    def number(self, name: str) -> Int32:
        """An argument that is a number below 2^31."""
        return self.int_arg(self.spec.arguments.fields[name].slot).narrow()

    def long_number(self, name: str) -> Int:
        """An argument that is any number."""
        return self.int_arg(self.spec.arguments.fields[name].slot)

    def i32(self, value: int) -> Int32:
        return Int32(self, str(int(value)))

    def index(self, loop: Loop) -> Int32:
        """The index of a loop over 32-bit integers."""
        return Int32(self, loop.index.value)

    def block(self, axis: int) -> Int32:
        """The number of this block along an axis of the grid."""
        return self._blocks[axis]

    @property
    def grid(self) -> Int32:
        """The blocks along the first axis of the grid."""
        return self._grid

    def shared(self, element: str) -> Ptr:
        """Where the block's shared memory begins."""
        return Ptr(self, "@shared_memory" if self.target == "ptx" else "%shared", element, 0, SHARED)

    def room(self, element: str, count: int) -> Ptr:
        """Raises: EngineError. Memory of a thread's own lies beside its registers, far away; no kernel of a GPU takes any."""
        raise EngineError(f"a kernel for GPUs has no memory of its own for a thread ({count} x {element})")

    def together(self, values: Sequence[Num]) -> Num:
        """Scalars as one vector."""
        if len(values) == 1:
            return values[0]
        kind, whole = type_of(values[0].dtype, len(values)), "poison"
        for lane, value in enumerate(values):
            whole = self.let(f"insertelement {kind} {whole}, {TYPES[value.dtype]} {value.value}, i32 {lane}")
        return Num(self, whole, values[0].dtype, len(values))

    # ---- what the two targets write differently

    def call_intrinsic(self, name: str, result: str, *operands: Int | Ptr) -> str:
        """A call of what the back end knows by name."""
        self._declared[name] = f"declare {result} @{name}({', '.join(operand.type for operand in operands)})"
        call = f"call {result} @{name}({', '.join(f'{operand.type} {operand.value}' for operand in operands)})"
        if result == "void":
            self.write(call)
            return ""
        return self.let(call)

    def _simulated(self, name: str, *operands: Int | Ptr) -> None:
        """A call of one of the simulator's functions, which know one address space."""
        plain = []
        for operand in operands:
            if isinstance(operand, Ptr):
                plain.append(f"ptr {self.let(f'addrspacecast {operand.typed} to ptr')}")
            else:
                plain.append(f"{operand.type} {operand.value}")
        self.write(f"call void @{name}({', '.join(['ptr %sim', *plain])})")

    def barrier(self) -> None:
        """All threads of the block come here before any goes on; what they wrote to shared memory is seen by all."""
        if self.target == "ptx":
            self.call_intrinsic("llvm.nvvm.barrier0", "void")
            return
        state, go = self.let("call i8 @llvm.coro.suspend(token none, i1 false)"), self._label("go")
        self.write(f"switch i8 {state}, label %suspend [ i8 0, label %{go}  i8 1, label %cleanup ]")
        known = self._known
        self._begin(go)
        self._known = known

    def copy_async(self, to: Ptr, source: Ptr, size: int, taken: Int) -> None:
        """Copy `size` bytes (4, 8 or 16) to shared memory, of which the first `taken` are read and the others are zeros."""
        if self.target == "ptx":
            kind = "cg" if size == 16 else "ca"
            self.call_intrinsic(f"llvm.nvvm.cp.async.{kind}.shared.global.{size}.s", "void", to, source, taken)
            return
        self.known_alignment(to, size)
        self.known_alignment(source, size)
        self._simulated("sim_copy", to, source, self.i32(size), taken)

    def commit(self) -> None:
        """The copies since the last commit are a group."""
        if self.target == "ptx":
            self.call_intrinsic("llvm.nvvm.cp.async.commit.group", "void")
        else:
            self._simulated("sim_commit")

    def wait_group(self, left: int) -> None:
        """Wait until all but the last `left` groups of this thread have come."""
        if self.target == "ptx":
            self.call_intrinsic("llvm.nvvm.cp.async.wait.group", "void", self.i32(left))
        else:
            self._simulated("sim_wait", self.i32(left))

    def multiply(self, rows: Sequence[Num], columns: Sequence[Num], sums: Sequence[Num]) -> list[Num]:
        """Four terms of every sum, by a warp together (float64): sums[r, c] += (8 x 4) x (4 x 8), term by term in order.

        Lane l gives term l % 4 of line l / 4 of each 8 x 4 and of each 4 x 8 (rows, columns), and has columns 2 (l % 4) and the next of
        row l / 4 of every 8 x 8, side by side in `sums`.
        """
        if self.target == "simulator":
            return self._multiplied(rows, columns, sums)
        name, pair = "llvm.nvvm.mma.m8n8k4.row.col.f64", "{ double, double }"
        self._declared[name] = f"declare {pair} @{name}(double, double, double, double)"
        made: list[Num] = []
        for r, row in enumerate(rows):
            for c, column in enumerate(columns):
                at = 2 * (r * len(columns) + c)
                given = ", ".join(f"double {value.value}" for value in (row, column, sums[at], sums[at + 1]))
                both = self.let(f"call {pair} @{name}({given})")
                made += [Num(self, self.let(f"extractvalue {pair} {both}, {k}"), "f64", 1) for k in range(2)]
        return made

    def _multiplied(self, rows: Sequence[Num], columns: Sequence[Num], sums: Sequence[Num]) -> list[Num]:
        """The same by what each thread shows the others of its warp, between two barriers."""
        assert len(rows) + len(columns) <= coroutines.SHOWN
        own = Ptr(self, "%sim", "f64").at_bytes(coroutines.SHOWN_AT)
        for k, value in enumerate((*rows, *columns)):
            own.at(k).store(value)
        self.barrier()
        lane = self.thread_number % 32
        first = lane // 4 * 4

        def of(other: Int32, number: int) -> Num:
            return own.at_bytes((other - lane).wide() * coroutines.STATE_BYTES).at(number).load()

        made: list[Num] = []
        for r in range(len(rows)):
            for c in range(len(columns)):
                for k in range(2):
                    value = sums[2 * (r * len(columns) + c) + k]
                    for term in range(4):
                        column = of(((lane % 4) * 2 + k) * 4 + term, len(rows) + c)
                        value = of(first + term, r).fma(column, value)
                    made.append(value)
        self.barrier()
        return made

    def known_alignment(self, where: Ptr, align: int) -> int:
        if self.target == "ptx":
            return align
        if align > 1:  # a GPU faults on what this CPU takes
            self._simulated("sim_aligned", where, self.i32(align))
        return min(align, ELEMENT_BYTES[where.element])

    def all_of(self, *conditions: Bit) -> Bit:
        """Whether all hold."""
        whole = conditions[0]
        for condition in conditions[1:]:
            whole = whole & condition
        return whole

    # ---- the module

    def module(self) -> str:
        """The whole text, whose kernel is complete after this."""
        fields = self.spec.arguments.fields.values()
        kinds = ["i64" if isinstance(field, Integer) else f"ptr addrspace({GLOBAL})" for field in fields]
        body, declared = "\n".join(self._lines), "\n".join(self._declared.values())
        if self.target == "simulator":
            return coroutines.module_text(kinds, self.spec.threads, self.spec.shared_bytes, body, declared)
        writes = getattr(self.spec, "writes", ("output",))
        parameters = []
        for field, kind in zip(fields, kinds, strict=True):
            only_read = kind != "i64" and field.name not in writes
            parameters.append(f"{kind}{' noalias readonly' if only_read else ' noalias' if kind != 'i64' else ''} %a{field.slot}")
        blocks = getattr(self.spec, "blocks_per_multiprocessor", 1)
        return (
            'target triple = "nvptx64-nvidia-cuda"\n'
            f"@shared_memory = external addrspace({SHARED}) global [0 x i8], align 16\n"
            f"define ptx_kernel void @kernel({', '.join(parameters)}) #0 {{\nentry:\n{body}\nret void\n}}\n{declared}\n"
            f'attributes #0 = {{ nounwind "nvvm.reqntid"="{self.spec.threads},1,1" "nvvm.minctasm"="{blocks}" }}\n'
        )
