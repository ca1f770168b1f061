"""Is this the echo?  Finds bytes on their way to the guest again in its output.

Pure.  What a guest shows for what it read: the byte itself, or one of a few other forms.
"""

RUN = 4  # bytes in a row that prove an echo beside other output

# In a flood only so much of the latest output is looked through byte by byte; longer than
# any window's echo.
SEEN = 256


def find_echo(output: bytes, in_flight: bytes) -> tuple[int, int]:
    """Find an echo of bytes in flight in ``output``.

    Returns how many of them are proved to have been read, and where in ``output`` the
    proof ends; (0, 0) where there is none.  A UART keeps order, so a run from the middle
    (what is before it was not echoed, or is torn apart by an editor's line wrap) proves
    all that was sent before it, too.
    """
    if output == in_flight and len(output) == 1:  # a key: most echoes are this
        return 1, 1
    for skipped in range(max(1, len(in_flight) - RUN + 1)):
        count, end = _find_run(output, in_flight[skipped:])
        if count:
            return skipped + count, end
    return 0, 0


def _find_run(output: bytes, run: bytes) -> tuple[int, int]:
    """Find where ``output`` echoes at least RUN bytes of ``run`` from its start, or all of it."""
    enough = min(RUN, len(run))
    if _is_literal(run[:enough]):
        at = output.find(run[:enough])
        return _match(output, at, run) if at >= 0 else (0, 0)
    # Not found at C speed; in a flood only the latest output is looked through.
    for at in range(max(0, len(output) - SEEN), len(output)):
        count, end = _match(output, at, run)
        if count >= enough:
            return count, end
    return 0, 0


def _match(output: bytes, at: int, run: bytes) -> tuple[int, int]:
    """Match bytes of ``run`` one after the other from ``at``: (how many, where that ends).

    A byte has several forms, of which one may begin another (CR is echoed as CR LF or as
    CR), so all the ways to match are followed at once; there are hardly ever two.  Where
    they leave a choice, fewer bytes are taken to explain the same output: to count one
    that was not echoed would be to send too much.
    """
    ways = {at}
    best = (at, 0)  # the end, and minus the count
    for count, byte in enumerate(run, 1):
        ways = {
            end + len(form) for end in ways for form in _FORMS[byte] if output.startswith(form, end)
        }
        if not ways:
            break
        best = max(best, (max(ways), -count))
    return -best[1], best[0]


def _is_literal(data: bytes) -> bool:
    return all(len(_FORMS[byte]) == 1 for byte in data)


def _forms(byte: int) -> tuple[bytes, ...]:
    raw = bytes([byte])
    match byte:
        case 0x0D | 0x0A:
            return b"\r\n", b"\r", b"\n"
        case 0x08:
            return b"\b \b", b"^H", raw
        case 0x7F:
            return b"\b \b", b"^?", raw
        case _ if byte < 0x20:
            return raw, b"^" + bytes([byte + 0x40])
        case _:
            return (raw,)


# How a guest may echo a byte: a line's end as CR LF (termios ONLCR), an erase as what
# erases on a screen, another control byte as itself or as ^X (ECHOCTL).
_FORMS = tuple(_forms(byte) for byte in range(256))
