"""What every figure shares: its settings, its command line, what it leaves on disk."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import tyro

import esv_jax as ej
from esv_jax.checks import expect_int
from esv_jax.files import atomic_path, make_folder
from experiments.play_fair.subjects import Choice, MissingDataError, Subject, load_subject
from experiments.records import as_json, surroundings, write_json, write_text

Verdict = Literal["reproduced", "weaker", "contradicted", "not measured"]


@dataclasses.dataclass(frozen=True)
class Settings(Choice):
    """Settings of one figure; with the data they determine its numbers on one backend."""

    out: Path = Path("results/play_fair")
    """Results go to `<out>/<subject>/<figure>`; files of an earlier run are replaced."""
    seed: int = 0
    """Seed of training, sampling, random orders and bootstrap."""
    n_elements: int = 8
    """Elements of a sequence, at segment centres."""
    n_resamples: int = 2000
    """Bootstrap resamples of the sequences."""
    full: bool = False
    """The whole size: more sequences, keys and budgets. By default a reduced one."""

    def __post_init__(self) -> None:
        """Refuse counts below 1; the library asks about the rest."""
        for name in ("n_elements", "n_resamples", "limit", "train_clips"):
            if getattr(self, name) is not None:
                expect_int(name, getattr(self, name), minimum=1)
        expect_int("seed", self.seed, minimum=0)


class Finding(NamedTuple):
    """One finding of the paper beside ours.

    Attributes:
      finding: what the paper says, in our words. paper: its numbers, or "".
      measured: ours, with intervals where there are any. verdict: how they compare.
      why: a short reason where they differ or where nothing was measured.
    """

    finding: str
    paper: str
    measured: str
    verdict: Verdict
    why: str = ""


class Outcome(NamedTuple):
    """What a figure found.

    Attributes:
      numbers: everything, as plain values (None in the place of NaN).
      table: Markdown. findings: what is claimed.
      pictures: file name without suffix -> matplotlib figure.
      store: an `xarray.Dataset` of the arrays behind the figure, or None.
    """

    numbers: dict[str, Any]
    table: str
    findings: list[Finding]
    pictures: dict[str, Any]
    store: Any = None


Measure = Callable[[Subject, Settings], Outcome]


def main(name: str, about: str, measure: Measure, args: Sequence[str] | None = None) -> int:
    """Draw one figure from the command line: 0 when done, 2 where data is missing or bad."""
    settings = tyro.cli(
        Settings, prog=f"python -m experiments.play_fair.{name}", description=about, args=args
    )
    try:
        subject = load_subject(settings, settings.out / settings.subject, settings.seed)
        summary = draw(name, measure, subject, settings)
    except (MissingDataError, ValueError, TypeError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 2
    print(summary["table"])
    for row in summary["findings"]:
        print(f"{row['verdict']}: {row['finding']}: {row['measured']} {row['why']}".rstrip())
    print(f"{settings.out / subject.name / name}, {summary['wall_seconds']:.0f} s")
    return 0


def draw(name: str, measure: Measure, subject: Subject, settings: Settings) -> dict[str, Any]:
    """Measure a figure and write summary.json, table.md, pictures and arrays.nc; the summary."""
    folder = settings.out / subject.name / name
    make_folder(folder)
    start = time.perf_counter()
    found = measure(subject, settings)
    summary = {
        "figure": name,
        "subject": subject.name,
        "findings": [row._asdict() for row in found.findings],
        "settings": as_json(settings),
        **subject.about,
        "numbers": found.numbers,
        "table": found.table,
        "pictures": [f"{picture}.png" for picture in found.pictures],
        "wall_seconds": round(time.perf_counter() - start, 1),
        **surroundings(),
    }
    for picture, figure in found.pictures.items():
        ej.plots.save_figure(figure, folder / f"{picture}.png")
    if found.store is not None:
        with atomic_path(folder / "arrays.nc") as temporary:
            found.store.to_netcdf(temporary, engine="h5netcdf")
    write_text(folder / "table.md", found.table)
    write_json(folder / "summary.json", summary)
    return summary


def markdown(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def plus_minus(mean: float, low: float, high: float, digits: int = 1) -> str:
    """A number with its interval, e.g. "61.2 [58.0, 64.1]"."""
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
