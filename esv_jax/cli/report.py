"""`esv-jax report`: results as one HTML page."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from esv_jax.checks import expect, message
from esv_jax.cli.printing import complain, say
from esv_jax.report import write_report
from esv_jax.results.sequences import videos_within

_SHOWN = 10  # notes that are printed


@dataclasses.dataclass(frozen=True)
class Report:
    """Write results as one HTML file with a gallery of videos, which opens offline.

    Examples: esv-jax report results -o report.html;
    esv-jax report results --wrong --sort evidence --videos clips --limit 20
    """

    results: tyro.conf.Positional[Path]
    """Output folder of esv-jax sweep or explain, or a result file (.nc)."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("report.html")
    """Output file."""
    limit: int = 50
    """Largest number of videos on the page."""
    sort: Literal["file", "uid", "evidence", "score", "gap", "length"] = "file"
    """Order of videos: evidence and score of the predicted class; gap of efficiency."""
    descending: bool = False
    """Sort in descending order."""
    correct: bool = False
    """Show only videos whose prediction is right."""
    wrong: bool = False
    """Show only videos whose prediction is wrong."""
    uids: tuple[str, ...] = ()
    """Videos to show; default all."""
    shown: Annotated[str, tyro.conf.arg(name="class")] = "pred"
    """Class whose values are shown first: pred, gt, or a name."""
    videos: Path | None = None
    """Folder or list of the explained videos, for thumbnails of the frames. Default: the folder
    "videos" within the results, if it exists."""
    title: str | None = None
    """Heading of the page; default the name of the results."""
    overwrite: bool = False
    """Replace an existing file."""

    def run(self) -> int:
        """Write the page; print its contents."""
        if self.out.exists() and not self.overwrite:
            raise FileExistsError(message("out", "a new file", self.out, "Add --overwrite."))
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
