"""Output paths and recorded settings of the commands that explain."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from esv_jax.checks import message
from esv_jax.files import expect_writable

_LONGEST = 120  # bytes of a name in UTF-8; endings such as "_perturbed.mp4" follow, 255 fit


def file_name(uid: str) -> str:
    """The start of the names of a uid's files: letters, digits, "-", "_", "."; "_" for others.

    Where letters are replaced or a long name is cut, the name ends in a digest of the whole uid, so
    that different uids have files of different names.
    """
    name = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in uid)
    name = name if name.strip(".") else f"_{name}"  # "." and ".." are folders
    if name == uid and len(name.encode()) <= _LONGEST:
        return name
    digest = hashlib.blake2b(uid.encode(errors="surrogatepass"), digest_size=4).hexdigest()
    start = name.encode()[: _LONGEST - len(digest) - 1].decode(errors="ignore")
    return f"{start}-{digest}"


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
    """Return the settings stored with results: command, options and model digest."""
    options = json.loads(json.dumps(dataclasses.asdict(command), default=str))
    return {"command": name, **options, "model_digest": digest}
