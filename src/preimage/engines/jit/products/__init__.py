"""Matrix products as the engine offers them (`engines.base.ProductKernels`): in the order of the contract, of any layout and batch."""

from preimage.engines.jit.products.call import JitProducts

__all__ = ["JitProducts"]
