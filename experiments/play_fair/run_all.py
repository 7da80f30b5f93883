"""Draws all figures of Play Fair on all subjects, and the page that compares them with the paper.

Each figure is measured on synthetic videos, JapaneseVowels and BasicMotions, or on features from a
file. A run that was stopped continues with the next figure; `--again` repeats finished ones. A
subject whose files are missing is skipped and reported at the end.

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
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import tyro

from esv_jax.files import make_folder
from experiments.harness import (
    MissingDataError,
    agreement,
    as_json,
    markdown,
    measured,
    write_text,
)
from experiments.play_fair.figure import Settings, draw
from experiments.play_fair.subjects import SubjectName, load_subject

TITLES = {
    "fig2": "Figure 2: three methods on the same sequences",
    "fig3": "Figure 3: dropping elements",
    "fig4": "Figure 4: supporting elements and positions",
    "fig5": "Figure 5: pairs of positions",
    "fig6": "Figure 6: scales, lengths, smoothness",
    "fig7": "Figure 7: one class against another",
    "fig8": "Figure 8: error by number of samples",
    "fig9": "Figure 9: every frame",
}
BEGIN = "<!-- play fair: written by experiments.play_fair.run_all --install -->"
END = "<!-- play fair: end -->"
_INSTALLED = tuple(("synthetic", figure) for figure in ("fig3", "fig6", "fig8"))
_README = Path(__file__).parent.parent / "README.md"

Summaries = dict[str, dict[str, dict[str, Any]]]
"""Subject -> figure -> summary."""


@dataclasses.dataclass(frozen=True)
class AllSettings(Settings):
    """Settings of all figures; `subject` is set to each of `subjects` in turn."""

    subject: tyro.conf.Suppress[SubjectName] = "synthetic"
    subjects: tuple[SubjectName, ...] = ("synthetic", "japanese-vowels", "basic-motions")
    """Subjects to measure on."""
    figures: tuple[str, ...] = tuple(TITLES)
    """Figures to draw."""
    again: bool = False
    """Repeat figures that an earlier run with the same settings has finished."""
    install: bool = False
    """Copy the page and its pictures to `experiments/` of this checkout."""


def main(args: Sequence[str] | None = None) -> int:
    """Draws everything: 0 when done, 1 where a figure failed, 2 where no subject has its data."""
    prog = "python -m experiments.play_fair.run_all"
    settings = tyro.cli(AllSettings, prog=prog, description=__doc__, args=args)
    unknown = [name for name in settings.figures if name not in TITLES]
    if unknown:
        print(f"figures: expected some of {', '.join(TITLES)}, got {unknown}.", file=sys.stderr)
        return 2
    start = time.perf_counter()
    done, failed, missing = run(settings)
    for text in (*failed, *missing):
        print(text, file=sys.stderr)
    if not done:
        return 2
    text = page(summaries(settings.out, settings.subjects))
    write_text(settings.out / "report.md", text)
    if settings.install:
        install(text, settings.out, _README)
    print(text)
    print(f"{settings.out / 'report.md'}, {(time.perf_counter() - start) / 60:.1f} min")
    return 1 if failed else 0


def run(settings: AllSettings) -> tuple[int, list[str], list[str]]:
    """Measures unfinished figures.

    Returns:
      Number of finished figures, messages of failed figures, messages of missing subjects.
    """
    done, failed, missing = 0, [], []
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(Settings)}
    for name in settings.subjects:
        own = Settings(**values | {"subject": name})
        try:
            subject = load_subject(own, own.out / name, own.seed)
        except (MissingDataError, ValueError, TypeError) as error:
            missing.append(f"{name} skipped: {error}")
            continue
        wanted = {"settings": as_json(own), **subject.about}
        for figure in settings.figures:
            # Keep those of an earlier run with the same settings, data and weights.
            found = {} if settings.again else _summary(own.out, name, figure)
            if not all(found.get(key) == value for key, value in wanted.items()):
                print(f"{name}: {figure}", file=sys.stderr)
                measure = importlib.import_module(f"experiments.play_fair.{figure}").measure
                try:
                    draw(figure, measure, subject, own)
                except (ValueError, TypeError) as error:
                    failed.append(f"{name}: {figure} failed: {error}")
                    continue
                finally:
                    jax.clear_caches()  # the next figure's programs have other shapes
            done += 1
    return done, failed, missing


def _summary(out: Path, subject: str, figure: str) -> dict[str, Any]:
    """The stored summary; empty where there is none."""
    path = out / subject / figure / "summary.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def summaries(out: Path, subjects: Sequence[str]) -> Summaries:
    """All stored summaries."""
    every = {name: {figure: _summary(out, name, figure) for figure in TITLES} for name in subjects}
    found = {name: {f: one for f, one in figures.items() if one} for name, figures in every.items()}
    return {name: figures for name, figures in found.items() if figures}


def page(found: Summaries) -> str:
    """Markdown page: a table of findings per figure, then data, weights and versions."""
    every = [row["agrees"] for s in found.values() for f in s.values() for row in f["findings"]]
    names = {True: "agree", False: "do not agree", None: "not compared"}
    counts = ", ".join(f"{every.count(key)} {name}" for key, name in names.items())
    parts = [f"{len(every)} numbers, each on one subject: {counts}."]
    head = ("quantity", "paper", "subject", "measured", "agrees", "note")
    for figure, title in TITLES.items():
        by_quantity: dict[str, list[tuple[str, ...]]] = {}
        for subject, figures in found.items():
            for row in figures.get(figure, {"findings": ()})["findings"]:
                cells = (subject, measured(row), agreement(row), row["note"])
                rows = by_quantity.setdefault(row["quantity"], [])
                first = (row["quantity"], row["expected"] or "-") if not rows else ("", "")
                rows.append((*first, *cells))
        if by_quantity:
            rows = [row for rows in by_quantity.values() for row in rows]
            parts += [f"### {title}", markdown(head, rows)]
    return "\n\n".join([*parts, _about(found)])


def install(text: str, out: Path, readme: Path) -> None:
    """Writes the page between its marks in a README, and some pictures beside it.

    Raises:
      ValueError: the README does not have exactly one of each mark.
    """
    old = readme.read_text()
    if old.count(BEGIN) != 1 or old.count(END) != 1:
        raise ValueError(f"{readme}: expected one line {BEGIN!r} and one {END!r}.")
    folder = readme.parent / "play_fair" / "pictures"
    make_folder(folder)
    shown = []
    for subject, figure in _INSTALLED:
        found = _summary(out, subject, figure)
        if found:
            copy = f"{subject}-{figure}.png"
            shutil.copyfile(out / subject / figure / found["pictures"][0], folder / copy)
            shown.append(f"![{TITLES[figure]}, {subject}](play_fair/pictures/{copy})")
    before, rest = old.split(BEGIN)
    after = rest.split(END)[1]
    body = "\n\n".join([BEGIN, text, *shown, END])
    write_text(readme, (before + body + after).rstrip("\n"))


def _about(found: Summaries) -> str:
    """Table of the subjects, and versions."""
    rows = []
    for subject, figures in found.items():
        one = next(iter(figures.values()))
        size = "full" if one["settings"]["full"] else "reduced"
        seconds = sum(figure["wall_seconds"] for figure in figures.values())
        digests = [
            f"{name} `{one[f'{name}_digest'][:12]}`"
            for name in ("trn", "tsn")
            if f"{name}_digest" in one
        ]
        row = (subject, one["n_sequences"], one["settings"]["seed"], size, ", ".join(digests))
        rows.append((*row, f"{seconds:.0f}"))
    head = ("subject", "sequences", "seed", "size", "weights", "seconds")
    first = next(iter(next(iter(found.values())).values()))
    versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    return f"{markdown(head, rows)}\n\n{first['cpu_cores']} CPU cores; {versions}."


if __name__ == "__main__":
    sys.exit(main())
