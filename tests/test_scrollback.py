"""The ring equals the end of an endless string; positions never change their meaning."""

from hypothesis import given
from hypothesis import strategies as st

from bridge.console.scrollback import Scrollback

CAPACITY = 4096  # the least, and a page


def read_all(ring: Scrollback, position: int, piece: int = 1 << 20) -> bytes:
    data = b""
    while chunk := ring.read(position + len(data), piece):
        data += chunk
    return data


@given(
    st.lists(st.binary(max_size=3 * CAPACITY), max_size=12),
    st.integers(1, 2 * CAPACITY),
)
def test_holds_the_end_of_all_that_was_appended(pieces: list[bytes], piece: int) -> None:
    ring = Scrollback(CAPACITY)
    everything = b""
    for data in pieces:
        ring.append(data)
        everything += data
        assert ring.end == len(everything)
        assert ring.start == max(0, len(everything) - CAPACITY)
        assert read_all(ring, ring.start, piece) == everything[ring.start :]


def test_a_reader_in_time_goes_on_where_it_was() -> None:
    ring = Scrollback(CAPACITY)
    ring.append(b"x" * CAPACITY)
    assert ring.catch_up(0) == 0
    assert ring.catch_up(17) == 17


def test_an_overtaken_reader_lands_on_a_line_start_half_a_ring_back() -> None:
    ring = Scrollback(CAPACITY)
    ring.append(b"".join(b"line %04d\n" % n for n in range(1000)))
    landing = ring.catch_up(3)
    assert ring.read(landing, 5) == b"line "
    assert 0 <= landing - (ring.end - CAPACITY // 2) < 10


def test_an_overtaken_reader_of_endless_lines_lands_anyway() -> None:
    ring = Scrollback(CAPACITY)
    ring.append(b"x" * 10_000)
    assert ring.catch_up(0) == ring.end - CAPACITY // 2
