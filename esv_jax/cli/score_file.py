"""Scores of clips, written as they come and read again by a command that goes on.

A text file of JSON, a line each: first the settings, then the clips.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from esv_jax.checks import expect
from esv_jax.files import atomic_path
from esv_jax.maps import ClipScores

_FORMAT = "esv_jax.clip_scores/1"
_WAY_OUT = "Add --overwrite, or choose another --out."


@dataclasses.dataclass(frozen=True, eq=False)
class ScoreFile:
    """A file that scores are added to.

    Attributes:
      path: where it is.
      known: what it held when it was opened: a mark and scores, by uid.
    """

    path: Path
    known: Mapping[str, tuple[str, ClipScores]]

    def find(self, uid: str, mark: str) -> ClipScores | None:
        """Scores of a clip, where they are known and have this mark of what was judged."""
        own, scores = self.known.get(uid, ("", None))
        return scores if own == mark else None

    def add(self, uid: str, mark: str, found: ClipScores) -> None:
        """Write the scores of a clip at once."""
        scores = [[None if np.isnan(v) else v for v in row] for row in found.scores.tolist()]
        line = {"uid": uid, "mark": mark, "scores": scores, "seconds": found.seconds.tolist()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps({**line, 'warnings': found.warnings})}\n")


def open_scores(path: Path, settings: Mapping[str, Any], *, overwrite: bool) -> ScoreFile:
    """Open the file of an earlier run with the same settings, or begin one.

    Args:
      path: the file, in a folder that exists.
      settings: all that scores depend on, beside the clips, as JSON holds it.
      overwrite: begin anew, whatever there is.
    Raises:
      ValueError: a file of other settings, or of another kind. OSError: no place to write to.
    """
    wanted = json.loads(json.dumps(dict(settings)))
    lines: list[dict[str, Any]] = []
    known: dict[str, tuple[str, ClipScores]] = {}
    if path.exists() and not overwrite:
        try:
            header, *lines = _complete_lines(path)
            fits = header["format"] == _FORMAT
            old = dict(header["settings"])
            known = {line["uid"]: (line["mark"], _scores(line)) for line in lines}
        except (ValueError, KeyError, TypeError):
            fits, old = False, {}
        expect(fits, str(path), "scores of an earlier run", "another file", _WAY_OUT)
        differ = sorted(name for name in {*old, *wanted} if old.get(name) != wanted.get(name))
        got = f"{path} ({', '.join(f'{name} {old.get(name)!r}' for name in differ)})"
        expect(not differ, "out", "a folder without scores of other settings", got, _WAY_OUT)
    with atomic_path(path) as temporary:  # without what a sudden end left half written
        whole = [{"format": _FORMAT, "settings": wanted}, *lines]
        temporary.write_text("".join(f"{json.dumps(line)}\n" for line in whole), "utf-8")
    return ScoreFile(path, known)


def _complete_lines(path: Path) -> list[dict[str, Any]]:
    """All but a last line that was cut."""
    text = path.read_text("utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def _scores(line: Mapping[str, Any]) -> ClipScores:
    scores = np.array(line["scores"], np.float64)  # None is NaN
    return ClipScores(scores, np.array(line["seconds"], np.float64), tuple(line["warnings"]))
