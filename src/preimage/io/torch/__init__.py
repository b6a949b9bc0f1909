"""Files of torch.save (`.pt`, `.pth`), read without running anything that they hold, and written so that torch reads them.

opcodes    pickle's instructions, those of plain values alone
tensors    what such a file may name; storages, and the arrays that tensors become
reading    the zip archive, and the form before torch 1.6
writing    arrays as an archive
"""

from preimage.io.torch.reading import load
from preimage.io.torch.writing import write

__all__ = ["load", "write"]
