"""Escape sequences in a guest's output, and the output as a person reads it.  Pure."""

import re

# ECMA-48: CSI; the strings, if they end within the line; escape sequences with and without
# intermediate bytes.
ESCAPES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)|[ -/]*[0-OQ-WYZ\\`-~])"
)

# All control bytes but the tab and the line feed.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def shown(output: bytes) -> str:
    """``output`` without colours and the like: text, tabs and line ends (as LF).

    What a person looks for and a regular expression should find.
    """
    text = output.decode("utf-8", "replace")
    return _CONTROLS.sub("", ESCAPES.sub("", text))
