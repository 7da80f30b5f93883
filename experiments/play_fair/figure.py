"""Settings, command line and stored files of one figure."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import xarray

import esv_jax as ej
from esv_jax.checks import expect_int
from esv_jax.files import atomic_path, make_folder
from experiments.harness import (
    Finding,
    as_json,
    as_rows,
    check_counts,
    command,
    findings_table,
    surroundings,
    write_json,
    write_text,
)
from experiments.play_fair.subjects import Choice, Elements, Subject, load_subject


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
    """Full size: more sequences, keys and budgets. The default is a reduced size."""

    def __post_init__(self) -> None:
        check_counts(self, "n_elements", "n_resamples", "limit", "train_clips")
        expect_int("seed", self.seed, minimum=0)


class Outcome(NamedTuple):
    """Result of a figure.

    Attributes:
      numbers: all numbers, as plain values (None in the place of NaN).
      table: the numbers as Markdown. findings: numbers beside the paper's.
      pictures: file name without suffix -> matplotlib figure.
      store: an `xarray.Dataset` of the arrays behind the figure, or None.
    """

    numbers: dict[str, Any]
    table: str
    findings: list[Finding]
    pictures: dict[str, Any]
    store: Any = None


Measure = Callable[[Subject, Settings], Outcome]


def stored(elements: Elements, arrays: dict[str, Any], **coords: Any) -> xarray.Dataset:
    """Arrays with their dimensions, and labels, indices and names of the elements explained."""
    about = {
        "label": (("video",), elements.labels),
        "index": (("video", "element"), elements.index),
    }
    return xarray.Dataset(arrays | about, coords={"video": elements.uids, **coords})


def main(name: str, about: str | None, measure: Measure, args: Sequence[str] | None = None) -> int:
    """Draws one figure from the command line: 0 when done, 2 where data is missing or bad."""

    def run(settings: Settings) -> str:
        subject = load_subject(settings, settings.out / settings.subject, settings.seed)
        summary = draw(name, measure, subject, settings)
        end = f"{settings.out / subject.name / name}, {summary['wall_seconds']:.0f} s"
        return "\n\n".join([summary["table"], findings_table(summary["findings"]), end])

    return command(Settings, run, module=f"play_fair.{name}", about=about, args=args)


def draw(name: str, measure: Measure, subject: Subject, settings: Settings) -> dict[str, Any]:
    """Measures a figure and writes summary.json, table.md, pictures and arrays.nc.

    Returns:
      The summary.
    """
    folder = settings.out / subject.name / name
    make_folder(folder)
    start = time.perf_counter()
    found = measure(subject, settings)
    summary = {
        "figure": name,
        "subject": subject.name,
        "findings": as_rows(found.findings),
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
