"""The README, as data: its commands, tables and examples."""

import re

from tests.support.user import REPOSITORY

TEXT = (REPOSITORY / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """The code blocks marked as ``language``; '' for those without a mark."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    return [text for mark, text in found if mark == language]


def commands() -> list[str]:
    """Every command line in a block of shell, without comments."""
    lines = "".join(blocks("sh")).splitlines()
    return [re.sub(r"\s+# .*", "", line) for line in lines]


def table(first: str) -> list[list[str]]:
    """The rows of the table whose first heading is ``first``, cell by cell."""
    match = re.search(rf"^\| {first} \|.*\n\|[-| ]+\|\n((?:\|.*\|\n)+)", TEXT, re.MULTILINE)
    assert match is not None, f"no table headed {first}"
    return [row.strip("| ").split(" | ") for row in match[1].splitlines()]


def code(cell: str) -> list[str]:
    """What stands in backquotes."""
    return re.findall(r"`([^`]+)`", cell)
