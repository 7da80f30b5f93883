"""`esv-jax report`: results as one page that opens offline in any browser."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from esv_jax.checks import expect, message
from esv_jax.cli.outputs import videos_within
from esv_jax.cli.printing import complain, say
from esv_jax.report import write_report

_SHOWN = 10  # notes that are printed


@dataclasses.dataclass(frozen=True)
class Report:
    """Write results as one HTML file with a gallery of videos, which opens offline.

    Examples: esv-jax report results -o report.html;
    esv-jax report results --wrong --sort evidence --videos clips --limit 20
    """

    results: tyro.conf.Positional[Path]
    """Folder of esv-jax sweep or explain, or a file of theirs (.nc)."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("report.html")
    """The page."""
    limit: int = 50
    """Videos on the page at most."""
    sort: Literal["file", "uid", "evidence", "score", "gap", "length"] = "file"
    """Which come first: evidence and score of the predicted class, gap of efficiency."""
    descending: bool = False
    """The highest first."""
    correct: bool = False
    """Only videos whose prediction is right."""
    wrong: bool = False
    """Only videos whose prediction is wrong."""
    uids: tuple[str, ...] = ()
    """The videos; default all."""
    shown: Annotated[str, tyro.conf.arg(name="class")] = "pred"
    """Whose values are shown first: pred, gt, or the name of a class."""
    videos: Path | None = None
    """Folder or list of the videos that were explained, for thumbnails of the frames. Default the
    folder "videos" within the results, where there is one."""
    title: str | None = None
    """Heading; default the name of the results."""
    overwrite: bool = False
    """Replace a file that exists."""

    def run(self) -> int:
        """Write the page; say what is on it."""
        if self.out.exists() and not self.overwrite:
            raise FileExistsError(message("out", "a new file", f"{self.out}", "Add --overwrite."))
        both = self.correct and self.wrong
        expect(not both, "correct", "--correct or --wrong", "both", "Leave out both for all.")
        report = write_report(
            self.results,
            self.out,
            limit=self.limit,
            sort=self.sort,
            descending=self.descending,
            correct=True if self.correct else False if self.wrong else None,
            uids=self.uids,
            shown=self.shown,
            videos=self.videos or videos_within(self.results),
            title=self.title,
            overwrite=self.overwrite,
        )
        notes = [(uid, note) for uid, several in report.notes.items() for note in several]
        for uid, note in notes[:_SHOWN]:
            complain(f"{uid}: {note}")
        if len(notes) > _SHOWN:
            complain(f"and {len(notes) - _SHOWN} more notes, on their cards")
        failed = f", {report.n_failed} failed" if report.n_failed else ""
        say(f"{report.n_shown} of {report.n_matching} videos{failed} in {report.path}")
        return 0
