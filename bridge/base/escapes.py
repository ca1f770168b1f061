"""Escape sequences in a guest's output, and the output as a person reads it.  Pure."""

import re

# ECMA-48: CSI; the strings, if they end within the line; escape sequences with and without
# intermediate bytes.
ESCAPES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)|[ -/]*[0-OQ-WYZ\\`-~])"
)

# The same in bytes; and ESC alone, and a sequence at the end whose rest has not come yet: a
# title is no text before its terminator has come, either.
_SEQUENCES = re.compile(
    rb"\x1b(?:"
    + ESCAPES.pattern.removeprefix(r"\x1b").encode()
    + rb"|(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b\n]{0,4096}\x1b?|[ -/]*)\Z)?"
)

# All control bytes but the tab and the line feed.
_CONTROLS = bytes({*range(0x20), 0x7F} - {0x09, 0x0A})

# All that is no text.
_HIDDEN = re.compile(_SEQUENCES.pattern + b"|[" + re.escape(_CONTROLS) + b"]")


def shown(output: bytes) -> str:
    """``output`` without colours and the like: text, tabs and line ends (as LF).

    What a person looks for and a regular expression should find.  Bytes that are not UTF-8
    are lone surrogates, so that none is lost.
    """
    plain = _SEQUENCES.sub(b"", output).translate(None, _CONTROLS)
    return plain.decode("utf-8", "surrogateescape")


def shown_end(output: bytes, text: str) -> int:
    """Where in ``output`` that ends which is shown as ``text``, the beginning of all of it."""
    end = len(text.encode("utf-8", "surrogateescape"))
    for hidden in _HIDDEN.finditer(output):
        if hidden.start() >= end:
            break
        end += len(hidden[0])
    return end
