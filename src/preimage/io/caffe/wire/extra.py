"""Fields that the schema does not know, as a text spells them: what forks of Caffe add is kept, named, and written back."""

from __future__ import annotations

from dataclasses import field

from preimage.records import record

__all__ = ["Extra", "close_name"]


@record
class Extra:
    """One such field: a number, word or string as it is spelt, or the fields of a message. `line` is where it stood."""

    name: str
    value: str | tuple[Extra, ...]
    line: int = field(default=0, compare=False)

    def text(self, indent: str = "") -> str:
        """The field as text."""
        if isinstance(self.value, str):
            return f"{indent}{self.name}: {self.value}\n"
        return f"{indent}{self.name} {{\n{''.join(inner.text(indent + '  ') for inner in self.value)}{indent}}}\n"


def close_name(name: str, known: list[str]) -> str | None:
    """The known name that this one is with one letter wrong, missing, too many, or two exchanged; None if there is none."""
    return next((other for other in known if _one_slip(name, other)), None)


def _one_slip(a: str, b: str) -> bool:
    if len(a) > len(b):
        a, b = b, a
    if len(b) - len(a) > 1 or a == b:
        return False
    at = next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), len(a))
    if len(a) < len(b):
        return a[at:] == b[at + 1 :]
    return a[at + 1 :] == b[at + 1 :] or (a[at : at + 2] == b[at : at + 2][::-1] and a[at + 2 :] == b[at + 2 :])
