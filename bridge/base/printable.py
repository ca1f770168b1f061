"""Text from a guest, a server or the kernel, made safe to print on a terminal.

Control bytes in a log or a status line are a known way into the terminal of whoever
reads them (CWE-150), so whatever we print ourselves passes here first.  The stream
itself is never touched.
"""


def printable(text: str | bytes, limit: int = 200) -> str:
    """Return ``text`` with all that is no plain visible character escaped, and cut to ``limit``.

    What counts is Unicode's: controls, bidirectional overrides, separators but the blank,
    surrogates and unassigned ones are escaped.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    cut = text if len(text) <= limit else text[:limit] + "..."
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut)
