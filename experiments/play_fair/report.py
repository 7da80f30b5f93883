"""The page that puts each finding of the paper beside what the figures measured here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from esv_jax.files import make_folder
from experiments.play_fair.figure import markdown
from experiments.records import write_text

TITLES = {
    "fig2": "Figure 2: three methods on single sequences",
    "fig3": "Figure 3: discarding frames",
    "fig4": "Figure 4: supporting frames, and where they lie",
    "fig5": "Figure 5: which position is above which",
    "fig6": "Figure 6: scales, lengths, smoothness",
    "fig7": "Figure 7: one class against another",
    "fig8": "Figure 8: how many samples it takes",
    "fig9": "Figure 9: every frame",
}
BEGIN = "<!-- play fair: written by experiments.play_fair.run_all --install -->"
END = "<!-- play fair: end -->"
_SHOWN = tuple(("synthetic", figure) for figure in ("fig3", "fig6", "fig8"))


def page(out: Path, subjects: Sequence[str]) -> str:
    """The page in Markdown: per figure the findings by subject, then each subject's tables."""
    found = summaries(out, subjects)
    parts = [_count(found)]
    for figure, title in TITLES.items():
        rows = [
            (row["finding"], row["paper"] or "-", subject, _verdict(row), _measured(row))
            for subject, of_subject in found.items()
            if figure in of_subject
            for row in of_subject[figure]["findings"]
        ]
        if rows:
            order = list(dict.fromkeys(row[0] for row in rows))
            rows.sort(key=lambda row: order.index(row[0]))
            head = ("finding", "paper", "measured on", "verdict", "measured")
            parts += [f"### {title}", markdown(head, _once(rows))]
    parts += [_settings(found)]
    return "\n\n".join(parts)


def verdicts(out: Path, subjects: Sequence[str]) -> str:
    """The findings for a terminal, a line each."""
    lines = []
    for subject, of_subject in summaries(out, subjects).items():
        for figure, summary in of_subject.items():
            for row in summary["findings"]:
                text = f"{subject} {figure} {row['verdict']}: {row['finding']}: {row['measured']}"
                lines.append(text)
    return "\n".join(lines)


def summaries(out: Path, subjects: Sequence[str]) -> dict[str, dict[str, Any]]:
    """subject -> figure -> its summary, of those there are."""
    found: dict[str, dict[str, Any]] = {}
    for subject in subjects:
        for figure in TITLES:
            path = out / subject / figure / "summary.json"
            if path.is_file():
                found.setdefault(subject, {})[figure] = json.loads(path.read_text())
    return found


def install(page: str, out: Path, readme: Path) -> None:
    """Put the page between its marks in a README, and the first picture of some figures beside it.

    Raises:
      ValueError: a README without the two marks.
    """
    text = readme.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"{readme}: expected one line {BEGIN!r} and one {END!r}.")
    folder = readme.parent / "play_fair" / "pictures"
    make_folder(folder)
    shown = []
    for subject, figure in _SHOWN:
        path = out / subject / figure / "summary.json"
        if path.is_file():
            name = json.loads(path.read_text())["pictures"][0]
            kept = f"{subject}-{figure}.png"
            shutil.copyfile(path.parent / name, folder / kept)
            shown.append(f"![{TITLES[figure]}, {subject}](play_fair/pictures/{kept})")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    body = "\n\n".join([BEGIN, page, *shown, END])
    write_text(readme, (before + body + after).rstrip("\n"))


def _count(found: dict[str, dict[str, Any]]) -> str:
    """How many findings came out how."""
    every = [r["verdict"] for s in found.values() for f in s.values() for r in f["findings"]]
    kinds = ("reproduced", "weaker", "contradicted", "not measured")
    counts = ", ".join(f"{every.count(kind)} {kind}" for kind in kinds if kind in every)
    return f"{len(every)} findings, each on one subject: {counts}."


def _settings(found: dict[str, dict[str, Any]]) -> str:
    """Which data, weights and versions."""
    rows = []
    for subject, figures in found.items():
        one = next(iter(figures.values()))
        size = "full" if one["settings"]["full"] else "reduced"
        seconds = sum(figure["wall_seconds"] for figure in figures.values())
        digests = ", ".join(
            f"{name} `{one[f'{name}_digest'][:12]}`"
            for name in ("trn", "tsn")
            if f"{name}_digest" in one
        )
        row = subject, one["n_sequences"], one["settings"]["seed"], size, digests, f"{seconds:.0f}"
        rows.append(row)
    head = ("subject", "sequences", "seed", "size", "weights", "seconds")
    one = next(iter(next(iter(found.values())).values()))
    versions = ", ".join(f"{name} {version}" for name, version in one["versions"].items())
    return f"{markdown(head, rows)}\n\n{one['cpu_cores']} CPU cores; {versions}."


def _once(rows: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """A finding's words on its first row only."""
    seen: set[str] = set()
    cut = []
    for row in rows:
        again = row[0] in seen
        seen.add(row[0])
        cut.append(("", "", *row[2:]) if again else row)
    return cut


def _verdict(row: dict[str, Any]) -> str:
    return row["verdict"] if row["verdict"] == "reproduced" else f"**{row['verdict']}**"


def _measured(row: dict[str, Any]) -> str:
    return " ".join(part for part in (row["measured"], row["why"]) if part).replace("|", "\\|")
