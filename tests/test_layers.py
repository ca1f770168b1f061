"""The architecture is what the packages' docstrings say it is."""

import ast
import re
import subprocess
import sys
from importlib import import_module

import bridge
from tests.support.user import REPOSITORY

PACKAGE = REPOSITORY / "bridge"


def listed(text: str | None) -> dict[str, bool]:
    """The names of a docstring's list, in order, and whether each has a star."""
    assert text is not None
    rows = re.findall(r"^(\w+) {2,}(\* )?\S.*$", text, re.MULTILINE)
    return {name: bool(star) for name, star in rows}


PARTS = list(listed(bridge.__doc__))
PACKAGES = [part for part in PARTS if (PACKAGE / part).is_dir()]
MODULES = {
    f"{package}.{module}": star
    for package in PACKAGES
    for module, star in listed(import_module(f"bridge.{package}").__doc__).items()
} | {part: False for part in PARTS if part not in PACKAGES}


def imports(module: str) -> set[str]:
    """The modules of ours that ``module`` imports, wherever in it."""
    found: set[str] = set()
    path = PACKAGE / f"{module.replace('.', '/')}.py"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("bridge"):
            names = {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
            found |= {name.removeprefix("bridge.") for name in names}
    return found & MODULES.keys()


def test_the_lists_name_every_module_and_package() -> None:
    files = {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for path in PACKAGE.rglob("*.py")
        if path.name != "__init__.py"
    }
    assert set(MODULES) == files
    assert set(PACKAGES) == {path.parent.name for path in PACKAGE.glob("*/__init__.py")}


def test_a_module_imports_only_what_stands_above_it() -> None:
    order = list(MODULES)
    wrong = [
        f"{module} imports {other}"
        for module in order
        for other in imports(module)
        if order.index(other) >= order.index(module)
    ]
    assert wrong == []


def test_pure_modules_do_no_io() -> None:
    starred = [module for module, star in MODULES.items() if star]
    assert len(starred) > 20
    for module in starred:
        text = (PACKAGE / f"{module.replace('.', '/')}.py").read_text()
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
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        assert text.count("\n") <= 400, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                assert node.end_lineno - node.lineno < 45, (path, node.name)
