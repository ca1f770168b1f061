"""The syntax of QEMU's options; test_qemuargs.py asks QEMU itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.vms.qemuopts import parse_json, parse_set, parse_values, read_config

WORDS = st.text(st.characters(exclude_characters="=", codec="utf-8"), min_size=1)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("socket,id=c", {"backend": "socket", "id": "c"}),
        ("backend=socket,id=c", {"backend": "socket", "id": "c"}),
        ("id=c,backend=socket", {"backend": "socket", "id": "c"}),
        ("socket,server,nowait", {"backend": "socket", "server": "on", "wait": "off"}),
        ("socket,nodelay", {"backend": "socket", "delay": "off"}),
        ("socket,port=1,port=2", {"backend": "socket", "port": "2"}),
        ("socket,path=a,,b,id=c", {"backend": "socket", "path": "a,b", "id": "c"}),
        ("socket,path=a,,", {"backend": "socket", "path": "a,"}),
        ("socket,path=a=b", {"backend": "socket", "path": "a=b"}),
        ("a,,b=c,id=d", {"backend": "a,b=c", "id": "d"}),
        ("socket,host=,port=1", {"backend": "socket", "host": "", "port": "1"}),
        ("socket,", {"backend": "socket"}),
        ("", {}),
    ],
)
def test_values(text: str, values: dict[str, str]) -> None:
    assert parse_values(text, "backend") == values


@given(st.dictionaries(WORDS.filter(lambda key: "," not in key), st.text(), min_size=1))
def test_any_value_can_be_written(values: dict[str, str]) -> None:
    text = ",".join(f"{key}={value.replace(',', ',,')}" for key, value in values.items())
    assert parse_values(text) == values


@given(st.text())
def test_nothing_raises(text: str) -> None:
    parse_values(text, "backend")
    parse_json(text)
    parse_set(text)
    list(read_config(text))


def test_json() -> None:
    assert parse_json('{"driver": "x", "chardev": "c", "n": 1}') == {
        "driver": "x",
        "chardev": "c",
        "n": "1",
    }
    assert parse_json("driver,chardev=c") is None
    assert parse_json("[1]") is None


def test_set() -> None:
    assert parse_set("chardev.c.path=a,b=c") == ("chardev", "c", "path", "a,b=c")
    assert parse_set("chardev.c") is None


def test_config_file() -> None:
    text = """\
# a comment
[chardev "c"]
  backend = "socket"
  path = "/a,b"

[machine]
type="pc"
[device]
  driver = "isa-serial"
  chardev = ""
"""
    assert [(s.group, s.id, s.values) for s in read_config(text)] == [
        ("chardev", "c", {"backend": "socket", "path": "/a,b"}),
        ("machine", None, {"type": "pc"}),
        ("device", None, {"driver": "isa-serial", "chardev": ""}),
    ]
