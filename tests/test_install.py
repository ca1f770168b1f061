"""``ttybridge install`` where no systemd of the user runs; with one, see test_systemd."""

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bridge
from bridge.base.errors import StartError
from bridge.systemd import unit
from tests.support.user import User, share


@pytest.fixture
def home(user: User, directory: Path) -> dict[str, str]:
    """The environment of a user whose home is empty, in a shell without a session."""
    if shutil.which("systemctl") is None:
        pytest.skip("not installed: systemd (contrib/check as root installs it)")
    return {"HOME": str(directory), "XDG_RUNTIME_DIR": str(directory / "none")}


def install(user: User, home: dict[str, str], *arguments: str) -> tuple[int, str, str]:
    done = user.run(["ttybridge", "install", *arguments], env=home)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def unit_of(home: dict[str, str]) -> Path:
    return Path(home["HOME"], ".config/systemd/user/ttybridge.service")


def wanted(home: dict[str, str]) -> Path:
    return unit_of(home).with_name("default.target.wants") / "ttybridge.service"


def test_the_unit_is_written_enabled_and_good(user: User, home: dict[str, str]) -> None:
    code, out, err = install(user, home)
    assert (code, err) == (0, "")
    file = unit_of(home)
    assert f"wrote {file}\n" in out
    assert f"loginctl enable-linger {user.name}\n" in out
    assert f"export XDG_RUNTIME_DIR=/run/user/{user.uid}\n" in out
    assert wanted(home).resolve() == file
    verified = user.run(
        ["systemd-analyze", "--user", "verify", file],
        env={"HOME": home["HOME"]},  # it wants a runtime directory that exists
    )
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")


def test_the_unit_runs_this_installation_with_the_configuration_that_was_meant(
    user: User, home: dict[str, str], base: Path
) -> None:
    install(user, home)
    config = Path(home["HOME"], ".config/ttybridge/config.toml")
    python = (base / "venv/bin/ttybridge").read_text().splitlines()[0].removeprefix("#!")
    start = f":{python} -P -X faulthandler -m bridge run --config {config}"
    assert f"\nExecStart={start}\n" in unit_of(home).read_text()
    checked = user.run(["ttybridge", "check"], env=home)
    assert checked.stdout == f"{config}: good, 0 consoles\n"


def test_a_second_time_changes_nothing(user: User, home: dict[str, str]) -> None:
    install(user, home)
    Path(home["HOME"], ".config/ttybridge/config.toml").write_text("# mine\n")
    before = unit_of(home).stat()
    code, out, _ = install(user, home)
    assert code == 0
    assert f"unchanged: {unit_of(home)}\n" in out
    assert unit_of(home).stat().st_mtime_ns == before.st_mtime_ns
    assert Path(home["HOME"], ".config/ttybridge/config.toml").read_text() == "# mine\n"


def test_other_paths_are_taken_over_by_another_install(user: User, home: dict[str, str]) -> None:
    install(user, home)
    code, out, _ = install(user, home, "--config", "some file.toml", "--runtime-dir", "run dir")
    assert code == 0
    assert f"wrote {unit_of(home)}\n" in out
    text = unit_of(home).read_text()
    assert f'--config "{user.home}/some file.toml"' in text
    assert f'--runtime-dir "{user.home}/run dir"' in text
    Path(user.home, "some file.toml").unlink()


def test_what_cannot_be_started_now_is_a_failure(user: User, home: dict[str, str]) -> None:
    code, out, _ = install(user, home, "--now")
    assert code == 1
    assert "nothing was started" in out
    assert wanted(home).exists()


def test_print_only_prints(user: User, home: dict[str, str]) -> None:
    code, out, _ = install(user, home, "--print")
    assert code == 0
    assert out.startswith(unit.MARK)
    assert "@" not in out.replace("@system-service", "")
    assert not Path(home["HOME"], ".config").exists()


@pytest.mark.parametrize("foreign", ["[Service]\nExecStart=/bin/true\n", None])
def test_a_unit_of_another_origin_stays(
    user: User, home: dict[str, str], foreign: str | None
) -> None:
    """A file, or the link to /dev/null that masks a unit."""
    file = unit_of(home)
    user.run(["mkdir", "-p", file.parent])
    if foreign is None:
        file.symlink_to("/dev/null")
    else:
        file.write_text(foreign)
    for words in ([], ["--uninstall"]):
        code, out, err = install(user, home, *words)
        assert (code, out) == (1, "")
        assert err == (
            f"ttybridge: {file} was not written by ttybridge install; --force if it may go\n"
        )
    assert install(user, home, "--force")[0] == 0
    assert unit.is_ours(file.read_text())
    assert not file.is_symlink()


def test_uninstall_leaves_the_configuration_alone(user: User, home: dict[str, str]) -> None:
    install(user, home)
    code, out, _ = install(user, home, "--uninstall")
    assert (code, out) == (0, f"removed {unit_of(home)}\n")
    assert not wanted(home).is_symlink()
    assert not unit_of(home).exists()
    assert Path(home["HOME"], ".config/ttybridge/config.toml").exists()
    assert install(user, home, "--uninstall")[:2] == (0, f"not installed: no {unit_of(home)}\n")


def test_a_directory_that_cannot_be_written_is_one_line(user: User, home: dict[str, str]) -> None:
    blocked = Path(home["HOME"], ".config")
    blocked.write_text("")
    code, _, err = install(user, home)
    assert code == 1
    assert err.startswith("ttybridge: ")
    assert err.endswith(": Not a directory\n")


def test_a_checkout_that_is_not_installed_is_refused(
    user: User, home: dict[str, str], directory: Path
) -> None:
    """Started as `python -m bridge` in it, systemd would not find it."""
    package = Path(bridge.__file__).parent
    shutil.copytree(package, directory / "bridge", ignore=shutil.ignore_patterns("__pycache__"))
    command = ["sh", "-c", "cd $HOME && exec python3 -m bridge install"]
    done = user.run(command, env={**home, "PATH": "/usr/bin:/bin"})
    assert done.returncode == 1
    assert "cannot be started from elsewhere" in done.stderr
    assert not unit_of(home).exists()


def test_without_systemd_it_says_so(user: User, home: dict[str, str], base: Path) -> None:
    done = user.run(
        [base / "venv" / "bin" / "ttybridge", "install"], env={**home, "PATH": "/nowhere"}
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "ttybridge: no systemctl here: `ttybridge install` is for systemd\n"


def test_an_installation_for_one_run_is_warned_of(
    user: User, home: dict[str, str], directory: Path, base: Path
) -> None:
    """As uvx makes it."""
    venv = directory / ".cache" / "uv" / "venv"
    user.run(["python3", "-m", "venv", "--without-pip", venv], env=home)
    share(base, venv)
    done = user.run([venv / "bin" / "python", "-m", "bridge", "install"], env=home)
    assert done.returncode == 0
    assert done.stderr.startswith(f"ttybridge: warning: {venv} may be cleaned up")
    assert f"{venv}/bin/python" in unit_of(home).read_text()


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ("/usr/bin/python3", "/usr/bin/python3"),
        ("/a b/c", '"/a b/c"'),
        ("100%", '"100%%"'),
        ("$HOME", '"$HOME"'),
        ('say "hi"', '"say \\"hi\\""'),
        ("back\\slash", '"back\\\\slash"'),
        ("two\nlines", '"two\\x0alines"'),
        (";", '";"'),
        ("", '""'),
        ("é", '"é"'),
    ],
)
def test_words_are_written_as_systemd_reads_them(word: str, written: str) -> None:
    assert unit.command_line(["/x", word]) == f":/x {written}"


@given(st.text(max_size=30))
def test_a_command_is_one_line(word: str) -> None:
    try:
        assert unit.command_line(["/x", word]).isprintable()
    except StartError:
        assert not word.isprintable()  # no UTF-8


@pytest.mark.parametrize("path", ['/a"b', "/a'b", "/a\\b", "/a\nb"])
def test_programs_that_systemd_does_not_run(path: str) -> None:
    with pytest.raises(StartError, match="systemd runs no program with"):
        unit.command_line([path])
