"""Text that any terminal and any pipe takes: file names are whatever bytes somebody gave them."""

from __future__ import annotations

import sys


def printable(text: str) -> str:
    r"""`text` with what is not printable, or not in the encoding of standard output, as escapes; line ends stay.

    >>> printable("a\n\x1b[31mb\udcff")
    'a\n\\x1b[31mb\\udcff'
    """
    shown = "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
    encoding = sys.stdout.encoding or "utf-8"
    return shown.encode(encoding, "backslashreplace").decode(encoding)
