"""The architecture is what bridge/__init__.py says it is."""

import ast
import re
import subprocess
import sys

import bridge
from tests.support.user import REPOSITORY

PACKAGE = REPOSITORY / "bridge"


def levels() -> dict[str, int]:
    """The table in the package's docstring: module to level."""
    assert bridge.__doc__ is not None
    level = 0
    table: dict[str, int] = {}
    for line in bridge.__doc__.splitlines():
        if match := re.match(r"(?=.{7}\w)(\d+|) +((?:\w+ )*\w+)(?:   .*)?$", line):
            level = int(match[1]) if match[1] else level
            table |= dict.fromkeys(match[2].split(), level)
    return table


def imports(module: str) -> set[str]:
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "bridge":
                found |= {alias.name for alias in node.names} - {"__version__"}
            elif node.module.startswith("bridge."):
                found.add(node.module.removeprefix("bridge."))
        elif isinstance(node, ast.Import):
            found |= {a.name.partition(".")[2] for a in node.names if a.name.startswith("bridge.")}
    return found


def test_the_table_names_every_module() -> None:
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert set(levels()) == modules


def test_a_module_imports_only_from_lower_levels() -> None:
    table = levels()
    wrong = [
        f"{module} ({level}) imports {other} ({table[other]})"
        for module, level in table.items()
        for other in imports(module)
        if table[other] >= level
    ]
    assert wrong == []


def test_pure_modules_do_no_io() -> None:
    for module, level in levels().items():
        if level <= 2:
            text = (PACKAGE / f"{module}.py").read_text()
            assert not re.search(
                r"^(import|from) (trio|socket|os|select|time)\b", text, re.MULTILINE
            ), module


def test_client_commands_import_nothing_heavy() -> None:
    """They are in scripts; importing trio alone takes a fifth of a second."""
    code = (
        "import sys; from bridge.cli import main; main(['path', 'x', '--runtime-dir', '/nowhere']);"
        "print([m for m in ('trio', 'websockets', 'trio_websocket') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    assert done.stdout == "[]\n"


def test_no_file_and_no_function_is_long() -> None:
    for path in PACKAGE.glob("*.py"):
        text = path.read_text()
        assert text.count("\n") <= 400, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                assert node.end_lineno - node.lineno < 45, (path, node.name)
