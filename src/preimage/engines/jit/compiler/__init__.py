"""From IR text to loaded machine code: LLVM, the kernels in memory, the files on disk, the description of the CPU."""
