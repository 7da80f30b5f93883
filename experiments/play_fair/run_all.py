"""Draws all figures of Play Fair on all subjects at hand, and the page that compares them.

Each figure is measured on synthetic videos, JapaneseVowels and BasicMotions, or on one's own
features. What is done is kept: a run that was stopped goes on with the next figure, and `--again`
measures anew. A subject whose files are missing is left out and named at the end.

    python -m experiments.play_fair.run_all
    python -m experiments.play_fair.run_all --full
    python -m experiments.play_fair.run_all --subjects features \\
        --features F.hdf --model M.safetensors

Results: `<out>/<subject>/<figure>/{summary.json, table.md, *.png, arrays.nc}`, `<out>/report.md`.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import tyro

from experiments.play_fair import report
from experiments.play_fair.figure import Settings, draw
from experiments.play_fair.subjects import MissingDataError, SubjectName, load_subject
from experiments.records import as_json, write_text

FIGURES = ("fig2", "fig3", "fig4", "fig5", "fig6", "fig7", "fig8", "fig9")
_README = Path(__file__).parent.parent / "README.md"


@dataclasses.dataclass(frozen=True)
class AllSettings(Settings):
    """Settings of all figures; `subject` is set to each of `subjects` in turn."""

    subject: tyro.conf.Suppress[SubjectName] = "synthetic"
    subjects: tuple[SubjectName, ...] = ("synthetic", "japanese-vowels", "basic-motions")
    """What to measure on."""
    figures: tuple[str, ...] = FIGURES
    """Which figures."""
    again: bool = False
    """Whether to measure anew what an earlier run of the same settings has left."""
    install: bool = False
    """Whether to put the page and its pictures into `experiments/` of this checkout."""


def main(args: Sequence[str] | None = None) -> int:
    """Draw everything: 0 when done, 1 where a figure failed, 2 where no subject has its data."""
    prog = "python -m experiments.play_fair.run_all"
    settings = tyro.cli(AllSettings, prog=prog, description=__doc__, args=args)
    unknown = [name for name in settings.figures if name not in FIGURES]
    if unknown:
        print(f"figures: expected some of {', '.join(FIGURES)}, got {unknown}.", file=sys.stderr)
        return 2
    start = time.perf_counter()
    done, failed, missing = run(settings)
    for text in (*failed, *missing):
        print(text, file=sys.stderr)
    if not done:
        return 2
    page = report.page(settings.out, settings.subjects)
    write_text(settings.out / "report.md", page)
    if settings.install:
        report.install(page, settings.out, _README)
    print(report.verdicts(settings.out, settings.subjects))
    print(f"{settings.out / 'report.md'}, {(time.perf_counter() - start) / 60:.1f} min")
    return 1 if failed else 0


def run(settings: AllSettings) -> tuple[int, list[str], list[str]]:
    """Measure what is missing: figures there are now, those that failed, subjects left out."""
    done, failed, missing = 0, [], []
    for name in settings.subjects:
        own = _of_subject(settings, name)
        try:
            subject = load_subject(own, own.out / name, own.seed)
        except (MissingDataError, ValueError, TypeError) as error:
            missing.append(f"{name} left out: {error}")
            continue
        for figure in settings.figures:
            if not settings.again and _is_there(own, figure, subject.about):
                done += 1
                continue
            print(f"{name}: {figure}", file=sys.stderr)
            measure = importlib.import_module(f"experiments.play_fair.{figure}").measure
            try:
                draw(figure, measure, subject, own)
                done += 1
            except (ValueError, TypeError) as error:
                failed.append(f"{name}: {figure} failed: {error}")
            jax.clear_caches()  # programs of other shapes than the next figure's
    return done, failed, missing


def _of_subject(settings: AllSettings, name: SubjectName) -> Settings:
    fields = {field.name: getattr(settings, field.name) for field in dataclasses.fields(Settings)}
    return Settings(**fields | {"subject": name})


def _is_there(settings: Settings, figure: str, about: dict[str, Any]) -> bool:
    """Whether an earlier run of the same settings, data and weights left this figure."""
    path = settings.out / settings.subject / figure / "summary.json"
    if not path.is_file():
        return False
    found = json.loads(path.read_text())
    wanted = {"settings": as_json(settings), **about}
    return all(found.get(key) == value for key, value in wanted.items())


if __name__ == "__main__":
    sys.exit(main())
