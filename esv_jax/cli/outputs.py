"""Output paths and recorded settings of the commands that explain."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from esv_jax.checks import message
from esv_jax.files import expect_writable


def file_name(uid: str) -> str:
    """A uid as a file may be called."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in uid)


def videos_within(results: Path) -> Path | None:
    """The folder "videos" within a folder of results, as the demo's have it; None without one."""
    folder = results / "videos"
    return folder if folder.is_dir() else None


def expect_free(path: Path, *, overwrite: bool) -> None:
    """Check that a file of results can be written, before any work is done.

    Raises:
      FileExistsError: the file exists and must not be replaced. OSError: it cannot be written.
    """
    if path.exists() and not overwrite:
        raise FileExistsError(
            message("out", "a file that does not exist yet", f"{path}", "Add --overwrite.")
        )
    expect_writable(path)


def settings_of(name: str, command: Any, digest: str) -> dict[str, Any]:
    """What results are stored with: the command and its options, as JSON; the model's digest."""
    options = json.loads(json.dumps(dataclasses.asdict(command), default=str))
    return {"command": name, **options, "model_digest": digest}
