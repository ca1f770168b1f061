"""How long a server is left alone before it is tried again."""

import pytest

from bridge.upstream.backoff import LONGEST, LONGEST_WATCHED, Backoff


@pytest.mark.parametrize(("watched", "longest"), [(False, LONGEST), (True, LONGEST_WATCHED)])
def test_delays_double_to_a_limit_with_jitter(watched: bool, longest: float) -> None:
    backoff = Backoff()
    some = [backoff.delay(watched=watched) for _ in range(20)]
    assert 0.18 < some[0] <= 0.25
    assert all(0.75 * longest <= delay <= longest for delay in some[-5:])
    assert len(set(some)) == 20
    backoff.reset()
    assert backoff.delay(watched=watched) <= 0.25


def test_the_limit_is_what_is_true_at_each_attempt() -> None:
    backoff = Backoff()
    for _ in range(20):
        backoff.delay(watched=True)
    assert backoff.delay(watched=False) <= LONGEST
    assert LONGEST < backoff.delay(watched=True) <= 2 * LONGEST
