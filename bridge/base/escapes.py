"""Escape sequences in a guest's output, and the output as a person reads it.  Pure."""

import re

# ECMA-48: CSI; the strings, if they end within the line; escape sequences with and without
# intermediate bytes.
ESCAPES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)|[ -/]*[0-OQ-WYZ\\`-~])"
)

# What of an output is not text: sequences, one at the end whose rest has not come yet (a
# title is up to its terminator no text either), and all control bytes but the tab and LF.
_HIDDEN = re.compile(
    ESCAPES.pattern.encode()
    + rb"|\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b\n]{0,4096}\x1b?|[ -/]*)\Z"
    + rb"|[\x00-\x08\x0b-\x1f\x7f]"
)


def shown(output: bytes) -> str:
    """``output`` without colours and the like: text, tabs and line ends (as LF).

    What a person looks for and a regular expression should find.  Bytes that are not UTF-8
    are lone surrogates, so that none is lost.
    """
    return _HIDDEN.sub(b"", output).decode("utf-8", "surrogateescape")


def shown_end(output: bytes, text: str) -> int:
    """Where in ``output`` that ends which is shown as ``text``, the beginning of all of it."""
    end = len(text.encode("utf-8", "surrogateescape"))
    for hidden in _HIDDEN.finditer(output):
        if hidden.start() >= end:
            break
        end += len(hidden[0])
    return end
