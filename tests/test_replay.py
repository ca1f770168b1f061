"""What of the past is shown: all text, nothing that a terminal would answer."""

import pytest

from bridge.replay import replay, unfinished


@pytest.mark.parametrize(
    ("past", "shown"),
    [
        (b"plain\r\n", b"plain\r\n"),
        (b"\x1b[6nx", b"x"),
    ],
)
def test_what_is_shown(past: bytes, shown: bytes) -> None:
    assert replay(past, cut=False) == shown


def test_the_unfinished_end_is_known() -> None:
    assert unfinished(b"abc\x1b[3") == 3
    assert unfinished(b"abc") == 0
