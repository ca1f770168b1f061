"""What was measured, as tables: for people in Markdown, for programs in JSON."""

from dataclasses import dataclass, field

Cell = str | float | None


@dataclass
class Table:
    """One part's figures.  ``note`` says how they were taken."""

    title: str
    note: str
    columns: list[str]
    rows: list[list[Cell]] = field(default_factory=list)

    def markdown(self) -> str:
        head = [f"### {self.title}", "", self.note, ""] if self.note else [f"### {self.title}", ""]
        lines = [_row(self.columns), _row(["---"] * len(self.columns))]
        lines += [_row([text(cell) for cell in row]) for row in self.rows]
        return "\n".join(head + lines) + "\n"


@dataclass(frozen=True)
class Headline:
    """One line of the summary: ours beside the best-known peer's."""

    what: str
    ours: Cell
    peer: Cell
    ratio: Cell = None


@dataclass
class Report:
    """What a part returns."""

    tables: list[Table]
    headlines: list[Headline] = field(default_factory=list)


def summary(headlines: list[Headline]) -> Table:
    table = Table("Summary", "", ["medians", "ttybridge", "websocat", "ratio"])
    table.rows = [[line.what, line.ours, line.peer, line.ratio] for line in headlines]
    return table


def text(cell: Cell) -> str:
    """A number with three figures that mean something."""
    if cell is None:
        return ""
    if isinstance(cell, str):
        return cell
    digits = 0 if abs(cell) >= 100 else 1 if abs(cell) >= 10 else 2
    return f"{cell:.{digits}f}"


def ratio(ours: float | None, peer: float | None) -> float | None:
    return ours / peer if ours is not None and peer else None


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
