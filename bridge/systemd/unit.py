"""The text of the user unit: this installation's command line in systemd's words.

Pure; the template is ``ttybridge.service`` beside this file.
"""

import re
from collections.abc import Sequence

from bridge.base.errors import StartError
from bridge.base.printable import printable

NAME = "ttybridge.service"

_PLAIN = re.compile(r"[A-Za-z0-9/._+-]+")

MARK = "# Written by `ttybridge install`."
"""The first line of a unit that is ours."""


def fill(template: str, command: Sequence[str]) -> str:
    """The unit that runs ``command``, a program's absolute path and its arguments.

    Raises StartError if systemd can't run it.
    """
    return template.replace("@MARK@", MARK).replace("@COMMAND@", command_line(command))


def is_ours(text: str) -> bool:
    return text.startswith(MARK)


def command_line(command: Sequence[str]) -> str:
    """What ExecStart= takes for ``command`` (systemd.service(5), "Command lines")."""
    for character in command[0]:
        # systemd refuses the unit, however they are quoted.
        if character in "\"'\\" or not character.isprintable():
            raise StartError(
                f"systemd runs no program with {character!a} in its path:"
                f" {printable(command[0], 1000)}; move the installation"
            )
    # A colon: no variables, so that a $ is a $.
    return ":" + " ".join(map(_quoted, command))


def _quoted(word: str) -> str:
    if _PLAIN.fullmatch(word):
        return word
    return '"' + "".join(map(_escaped, word)) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    if character == "%":  # a specifier
        return "%%"
    if character.isprintable():
        return character
    if "\udc80" <= character <= "\udcff":  # a byte of a file name that is not UTF-8
        raise StartError(
            f"systemd takes UTF-8 only; not the byte 0x{ord(character) & 0xFF:02x} in a path"
        )
    return "".join(f"\\x{byte:02x}" for byte in character.encode())
