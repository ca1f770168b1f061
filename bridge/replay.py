"""Placeholder until merged."""


def replay(past: bytes, *, cut: bool) -> bytes:
    return past


def unfinished(past: bytes) -> int:
    return 0
