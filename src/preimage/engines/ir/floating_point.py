"""The floating-point control word of a thread: code that sets the standard one, and code that puts back what was there.

The standard word rounds to nearest, ties to even, keeps denormal numbers and raises no signals. A thread may have another one: a
library built with -ffast-math flushes denormals in the thread that loads it, `torch.set_flush_denormal` in the one that calls it.
"""

from __future__ import annotations

__all__ = ["declarations", "restore", "set_standard"]

#: MXCSR of x86 with all exceptions masked; FPCR of ARM.
_STANDARD_X86, _STANDARD_ARM = 0x1F80, 0


def _is_x86(triple: str) -> bool:
    return triple.startswith("x86_64")


def declarations(triple: str) -> tuple[str, str]:
    """The two intrinsics that the code below calls."""
    if _is_x86(triple):
        return "declare void @llvm.x86.sse.stmxcsr(ptr)", "declare void @llvm.x86.sse.ldmxcsr(ptr)"
    return "declare i64 @llvm.aarch64.get.fpcr()", "declare void @llvm.aarch64.set.fpcr(i64)"


def set_standard(triple: str, saved: bool = True) -> tuple[str, ...]:
    """Lines that set the standard word, once in a function; saved: and keep the thread's own for `restore`."""
    if _is_x86(triple):
        keep = ("%fp.own = alloca i32", "call void @llvm.x86.sse.stmxcsr(ptr %fp.own)") if saved else ()
        return (
            *keep,
            "%fp.standard = alloca i32",
            f"store i32 {_STANDARD_X86}, ptr %fp.standard",
            "call void @llvm.x86.sse.ldmxcsr(ptr %fp.standard)",
        )
    own = ("%fp.own = call i64 @llvm.aarch64.get.fpcr()",) if saved else ()
    return (*own, f"call void @llvm.aarch64.set.fpcr(i64 {_STANDARD_ARM})")


def restore(triple: str) -> str:
    """The line that puts back the word that `set_standard` kept."""
    if _is_x86(triple):
        return "call void @llvm.x86.sse.ldmxcsr(ptr %fp.own)"
    return "call void @llvm.aarch64.set.fpcr(i64 %fp.own)"
