"""What lies outside the process: files that are written whole, files that are read with bounds, text from strangers.

write_file        a file appears whole or not at all; `replacing` for what is written in steps, `folders.NewFolder` for a folder
check_writable    the same refusals before the work
read_bytes, read_json    regular files of a bounded size
printable, html   names and messages from files as they may be shown on a terminal or a page
"""

from preimage.host.reading import read_bytes, read_json
from preimage.host.text import html, printable
from preimage.host.writing import NewFile, check_writable, replacing, write_file

__all__ = [
    "NewFile",
    "check_writable",
    "html",
    "printable",
    "read_bytes",
    "read_json",
    "replacing",
    "write_file",
]
