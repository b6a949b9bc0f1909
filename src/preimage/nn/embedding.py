"""A table whose rows are learned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from preimage import functional
from preimage.errors import OptionError
from preimage.nn import init
from preimage.nn.module import Module, Parameter
from preimage.ops.operands import count_of, float_dtype, integer_of
from preimage.typing import DTypeLike, Integers, Seed, Value

__all__ = ["Embedding"]


class Embedding(Module):
    """The rows of weight (num_embeddings, embedding_dim) at integer positions (*), as (*, embedding_dim).

    padding_idx: a row that starts as zeros and gets no gradient. rng: a numpy Generator or seed for the start of the weights (normal, variance 1).
    Raises: OptionError for a padding_idx outside the table; in a call, ShapeError for a position outside it.
    """

    if TYPE_CHECKING:

        def __call__(self, positions: Integers) -> Value: ...

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        dtype: DTypeLike = np.float32,
        rng: Seed = None,
    ) -> None:
        super().__init__()
        self.num_embeddings = count_of(num_embeddings, "Embedding: num_embeddings", 1)
        self.embedding_dim = count_of(embedding_dim, "Embedding: embedding_dim", 1)
        start = init.normal((self.num_embeddings, self.embedding_dim), rng=rng)
        self.padding_idx = (
            None if padding_idx is None else integer_of(padding_idx, "Embedding: padding_idx", -self.num_embeddings)
        )
        if self.padding_idx is not None:
            if self.padding_idx >= self.num_embeddings:
                raise OptionError(f"Embedding: padding_idx {padding_idx} is outside the table of {self.num_embeddings} rows")
            self.padding_idx %= self.num_embeddings
            start[self.padding_idx] = 0
        self.weight = Parameter(start.astype(float_dtype(dtype)))

    def forward(self, positions: Integers) -> Value:
        return functional.embedding(positions, self.weight, self.padding_idx)

    def extra_repr(self) -> str:
        idle = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{idle}"
