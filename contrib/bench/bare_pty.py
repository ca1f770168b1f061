"""A PTY with nothing but a guest like fake.py's behind it: what the kernel carries.

python bare_pty.py      prints the path of the slave
"""

import os
import re
import tty

from fake import BLOCK, END, PATTERN, PERIOD

_TEXT = memoryview(PATTERN * (BLOCK // PERIOD))


def flood(master: int, count: int) -> None:
    while count > 0:
        count -= os.write(master, _TEXT[: min(count, len(_TEXT))])
        # A short write shifts the pattern; none is, while the slave is open and this blocks.
    os.write(master, END)


def main() -> None:
    master, slave = os.openpty()
    tty.setraw(slave)
    print(os.ttyname(slave), flush=True)
    line = b""
    while True:
        data = os.read(master, 4096)
        os.write(master, data)
        line += data
        while b"\r" in line:
            command, _, line = line.partition(b"\r")
            if found := re.fullmatch(rb"flood \d+ (\d+)", command):
                flood(master, int(found[1]))


main()
