"""The text layer: kernels as LLVM IR, written as loops over vectors; knows no CPU and no engine."""
