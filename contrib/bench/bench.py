"""ttybridge beside its peers, in one run.  Judges nothing: figures are for reading.

Every part starts all clients that it finds, each on a fake VM of its own, and lets them
take turns, round after round, so that they meet the same machine.  The results go to
contrib/bench/results/, with machine, versions and date.
"""

import argparse
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import fanout
import flood
import idle
import keys
import neighbour
import paste
import wakeups
from clients import versions
from table import Report, Table, summary

HERE = Path(__file__).parent

PARTS: dict[str, Callable[[int, float], Report]] = {
    "flood": flood.run,
    "keys": keys.run,
    "neighbour": neighbour.run,
    "fanout": fanout.run,
    "wakeups": wakeups.run,
    "paste": paste.run,
    "idle": idle.run,
}


def main() -> None:
    arguments = parse()
    reports = {}
    for name in arguments.only:
        print(f"{name} ...", file=sys.stderr, flush=True)
        reports[name] = PARTS[name](arguments.rounds, arguments.seconds)
    machine = about()
    command = shlex.join(["contrib/bench/run", *sys.argv[1:]])
    short = summary([line for report in reports.values() for line in report.headlines])
    tables = [short, *(table for report in reports.values() for table in report.tables)]
    text = markdown(machine, command, tables)
    print(text)
    if arguments.results:
        save(arguments.results, text, {"command": command, **machine}, tables)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="contrib/bench/run",
        description=(__doc__ or "").partition("\n\n")[0],
        epilog=f"parts: {', '.join(PARTS)}",
    )
    parser.add_argument("--only", metavar="PART,...", type=parts, default=list(PARTS))
    parser.add_argument("--rounds", metavar="N", type=int, default=5)
    parser.add_argument("--seconds", metavar="S", type=float, default=1.0, help="of a flood")
    parser.add_argument(
        "--results",
        metavar="DIR",
        type=Path,
        default=HERE / "results",
        help="where the files go (default: contrib/bench/results); '' for nowhere",
    )
    arguments = parser.parse_args()
    if str(arguments.results) == ".":  # what Path makes of ''
        arguments.results = None
    return arguments


def parts(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(PARTS):
        raise argparse.ArgumentTypeError(f"no part {', '.join(unknown)}; there are {list(PARTS)}")
    return names


def about() -> dict[str, str]:
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "machine": f"{platform.machine()}, {processor()}, {os.cpu_count()} processors",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load before": f"{os.getloadavg()[2]:.2f}",
        **versions(),
    }


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "processor unknown"


def markdown(machine: dict[str, str], command: str, tables: list[Table]) -> str:
    head = "\n".join(f"- {key}: {value}" for key, value in machine.items())
    body = "\n".join(table.markdown() for table in tables)
    return f"# {command}\n\n{head}\n\n{body}"


def save(directory: Path, text: str, about: dict[str, str], tables: list[Table]) -> None:
    directory.mkdir(exist_ok=True)
    stem = directory / time.strftime("%Y-%m-%d-%H%M")
    stem.with_suffix(".md").write_text(text)
    document = {**about, "tables": [asdict(table) for table in tables]}
    stem.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")
    print(f"written: {stem}.md, {stem}.json", file=sys.stderr)


if __name__ == "__main__":
    main()
