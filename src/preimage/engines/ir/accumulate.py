"""`Num.plus_product` on a target: fused multiply-add whose result takes the register of the sum."""

from __future__ import annotations

import re

from preimage.engines.ir.values import ACCUMULATE

__all__ = ["with_accumulations"]

_CALL = re.compile(rf"call <(\d+) x (float|double)> @{re.escape(ACCUMULATE)}\.\w+\(")


def with_accumulations(text: str, x86: bool, vector_bytes: int) -> str:
    """The text of a kernel with its accumulations as the target has them.

    On x86 the instruction that adds to its first operand, by name, since LLVM would choose among three; elsewhere, and for vectors that
    are no register, `llvm.fma`. vector_bytes: of the widest register.
    """
    if ACCUMULATE not in text:
        return text

    def instruction(call: re.Match[str]) -> str:
        size = int(call[1]) * (4 if call[2] == "float" else 8)
        if size not in (16, 32, vector_bytes):
            return call[0]
        return f'call <{call[1]} x {call[2]}> asm "vfmadd231p{"s" if call[2] == "float" else "d"} $2, $1, $0", "=v,v,v,0"('

    if x86:
        text = _CALL.sub(instruction, text)
    lines = text.replace(f"@{ACCUMULATE}.", "@llvm.fma.").splitlines()
    declared = dict.fromkeys(line for line in lines if line.startswith("declare "))
    return "\n".join([*(line for line in lines if not line.startswith("declare ")), *declared])
