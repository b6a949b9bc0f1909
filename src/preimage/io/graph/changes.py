"""What passes did to a graph."""

from __future__ import annotations

__all__ = ["Changes"]


class Changes(dict[str, int]):
    """A name for each kind of change, and how often it was made; `nodes`: how many there were before and are now, where that was counted.

    Example:
        >>> made = Changes(SiLU=57, GELU=2)
        >>> made.nodes = (323, 266)
        >>> print(made)
        323 nodes became 266
          57  SiLU
           2  GELU
    """

    nodes: tuple[int, int] | None = None

    def copy(self) -> Changes:
        """The same, to be changed."""
        made = Changes(self)
        made.nodes = self.nodes
        return made

    def __str__(self) -> str:
        first = [] if self.nodes is None else [f"{self.nodes[0]} nodes became {self.nodes[1]}"]
        return "\n".join([*first, *(f"{count:>4}  {name}" for name, count in sorted(self.items(), key=lambda item: -item[1]))])
