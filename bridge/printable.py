"""Text from a guest, a server or the kernel, made safe to print on a terminal.

Control bytes in a log or a status line are a known way into the terminal of whoever
reads them (CWE-150), so whatever we print ourselves passes here first.  The stream
itself is never touched.
"""

import unicodedata

# Cc: C0, DEL and C1.  Cf: bidirectional overrides, zero-width characters.  Zl, Zp: line
# breaks that only some terminals show.  Cs: what surrogateescape left undecodable.
_UNSAFE = frozenset({"Cc", "Cf", "Zl", "Zp", "Cs", "Co", "Cn"})


def printable(text: str | bytes, limit: int = 200) -> str:
    """Return ``text`` with every unsafe character escaped, and cut to ``limit`` characters."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    cut = text if len(text) <= limit else text[:limit] + "..."
    return "".join(
        ascii(character)[1:-1] if unicodedata.category(character) in _UNSAFE else character
        for character in cut
    )
