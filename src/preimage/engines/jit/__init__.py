"""The jit engine: convolution kernels generated in Python as LLVM IR for the CPU at hand. Start reading at `engine`."""
