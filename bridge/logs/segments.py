"""The files of a console's log: where they are, what they are called, in which order.

``NAME.log`` grows.  When it is big enough it is renamed to the next number,
``NAME.log.000017``, and later compressed to ``NAME.log.000017.gz``.  A file's number never
changes (other rotations count every file up each time), so whoever reads along knows
which came after the one he has, and no crash leaves a text under two numbers.  For an
instant, or after a crash, a number may have both its forms: then the compressed one
counts, which is there only once it is whole.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from bridge.kernel.homes import state_home

COMPRESSED = ".gz"


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """A rotated file, in the form that counted when it was looked for."""

    number: int
    path: Path

    @property
    def compressed(self) -> bool:
        return self.path.name.endswith(COMPRESSED)

    @property
    def plain(self) -> Path:
        """The path of the uncompressed form."""
        return self.path.with_suffix("") if self.compressed else self.path

    @property
    def compressed_path(self) -> Path:
        return self.path if self.compressed else self.path.with_name(self.path.name + COMPRESSED)

    def remove(self) -> None:
        for path in (self.path, self.plain):
            path.unlink(missing_ok=True)


def log_directory() -> Path:
    return state_home() / "ttybridge" / "log"


def current(directory: Path, name: str) -> Path:
    """The file that grows."""
    return directory / f"{name}.log"


def rotated(directory: Path, name: str) -> list[Segment]:
    """Those that grow no more, the oldest first, each once."""
    shape = re.compile(re.escape(name) + r"\.log\.([0-9]{6,12})(\.gz)?")
    try:
        entries = os.listdir(directory)
    except FileNotFoundError:
        return []
    found: dict[int, Segment] = {}
    for entry in entries:
        if match := shape.fullmatch(entry):
            number = int(match[1])
            if match[2] or number not in found:
                found[number] = Segment(number, directory / entry)
    return sorted(found.values())


def following(directory: Path, name: str) -> int:
    """The number that the growing file will get."""
    return max((segment.number for segment in rotated(directory, name)), default=0) + 1


def numbered(directory: Path, name: str, number: int) -> Path:
    return directory / f"{name}.log.{number:06}"
