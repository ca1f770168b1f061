"""Tests of a guest by way of its console, with pytest and pytest-trio.

CONSOLE=vm1 pytest -o trio_mode=true contrib/examples/test_guest.py
"""

import os
import re
from collections.abc import AsyncIterator

import pytest
import trio

from bridge import api

PROMPT = re.compile(r"[$#] $")


@pytest.fixture
async def console() -> AsyncIterator[api.Console]:
    """The console of a guest whose shell is at its prompt."""
    async with await api.Service().open(os.environ.get("CONSOLE", "vm1")) as console:
        with trio.fail_after(30):
            await console.send("", enter=True)
            await console.wait_for(PROMPT)
        yield console


async def test_the_shell_answers(console: api.Console) -> None:
    await console.send("echo hello", enter=True)
    with trio.fail_after(10):
        found = await console.wait_for(PROMPT)
    assert found.before.splitlines()[1] == "hello"
