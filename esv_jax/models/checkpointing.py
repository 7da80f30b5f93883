"""Training states on disk, from which a stopped run resumes.

Orbax writes each state beside its final path, then renames it. A digest of its files is stored in
`<step>.sha256`: Orbax reads a large array whose bytes changed on the disk without an error.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from esv_jax import checks
from esv_jax.checks import message
from esv_jax.files import JSONObject, atomic_path
from esv_jax.models.tensor_files import named_leaves

T = TypeVar("T")

_KEPT = 2  # saved states
_OVERHEAD = 2**18  # bytes of a saved state beside its arrays, at most
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def open_states(
    folder: str | PathLike[str] | None, every: int, settings: JSONObject
) -> Iterator[SavedStates]:
    """Open a folder for the states of a run.

    Args:
      folder: made if absent; None saves nothing.
      every: epochs between saved states.
      settings: of the run, plain values; those of a resumed run must be the same.
    """
    every = checks.expect_int("checkpoint_every", every, minimum=1)
    if folder is None:
        yield SavedStates(None, Path(), {}, every)
        return
    import orbax.checkpoint as ocp

    folder = Path(folder).resolve()
    options = ocp.CheckpointManagerOptions(max_to_keep=_KEPT, enable_async_checkpointing=False)
    with ocp.CheckpointManager(folder, options=options) as manager:
        yield SavedStates(manager, folder, json.loads(json.dumps(settings)), every)


class SavedStates:
    """The saved states of a run, by the number of finished epochs."""

    def __init__(self, manager: Any, folder: Path, settings: JSONObject, every: int) -> None:
        self._manager = manager  # of Orbax; None saves nothing
        self._folder, self._settings, self._every = folder, settings, every

    def restore(self, state: T) -> T:
        """The latest undamaged state, or `state` (which gives the structure) if none was saved.

        Damaged states newer than it are deleted, with a warning, and their epochs trained again.

        Raises:
          ValueError: all saved states are damaged, or the run began with other settings or data.
        """
        if self._manager is None or self._manager.latest_step() is None:
            return state
        damaged: list[int] = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            digest = self._folder / f"{step}.sha256"
            has_digest = digest.is_file()
            if has_digest and digest.read_text(errors="replace") != _digest(self._folder, step):
                damaged.append(step)  # not read with Orbax, whose threads print their errors
                continue
            try:
                differing, restored = self._read(step, state)
            except (ValueError, KeyError, OSError):
                if has_digest:  # undamaged: another error, and nothing may be deleted
                    raise
                damaged.append(step)
                continue
            if differing:
                expected, got = (
                    ", ".join(f"{name}={pair[k]!r}" for name, pair in differing.items())
                    for k in (0, 1)
                )
                way_out = "Use another folder, or the settings and data that the run began with."
                raise ValueError(message("checkpoint_dir", f"a run with {expected}", got, way_out))
            for each in damaged:
                self._manager.delete(each)
                (self._folder / f"{each}.sha256").unlink(missing_ok=True)
            if damaged:
                text = f"checkpoint_dir: the state of epoch {damaged[0]} is damaged."
                warnings.warn(f"{text} Training continues from epoch {step}.", stacklevel=5)
            return restored
        way_out = "Pass another folder, or delete this one to train from the beginning."
        got = f"{self._folder}, where the state of epoch {damaged[0]} is damaged"
        raise ValueError(message("checkpoint_dir", "an undamaged state", got, way_out))

    def _read(self, step: int, state: T) -> tuple[dict[str, tuple[Any, Any]], T]:
        """Settings that differ (saved, given), and the state after `step` epochs if none does."""
        import orbax.checkpoint as ocp

        args = ocp.args.Composite(settings=ocp.args.JsonRestore())
        settings = self._manager.restore(step, args=args)["settings"]
        names = sorted({*settings, *self._settings})
        pairs = {name: (settings.get(name), self._settings.get(name)) for name in names}
        differing = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
        if differing:
            return differing, state
        leaves = named_leaves(state)
        like = {name: np.asarray(leaf) for name, leaf in leaves.items()}
        args = ocp.args.Composite(state=ocp.args.StandardRestore(like))
        restored = self._manager.restore(step, args=args)["state"]
        found = [
            jnp.asarray(restored[name]) if isinstance(leaf, jax.Array) else restored[name]
            for name, leaf in leaves.items()
        ]
        return {}, jax.tree.unflatten(jax.tree.structure(state), found)

    def save(self, state: object, step: int, last: bool = False) -> None:
        """Save the state after `step` epochs, if one is due or it is the `last`.

        Raises:
          OSError: not enough space.
        """
        is_due = last or step % self._every == 0
        if self._manager is None or not is_due or step == self._manager.latest_step():
            return
        import orbax.checkpoint as ocp

        leaves = {name: np.asarray(leaf) for name, leaf in named_leaves(state).items()}
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(leaves), settings=ocp.args.JsonSave(self._settings)
        )
        with _ctrl_c_delayed():
            _expect_space(self._folder, 2 * sum(x.nbytes for x in leaves.values()) + _OVERHEAD)
            self._manager.save(step, args=args, force=True)
            with atomic_path(self._folder / f"{step}.sha256") as path:
                path.write_text(_digest(self._folder, step))
            for path in self._folder.glob("*.sha256"):
                if path.stem.isdigit() and not (self._folder / path.stem).is_dir():
                    path.unlink()  # of a state that Orbax has dropped


def _expect_space(folder: Path, n_bytes: int) -> None:
    """Refuse to save on a full disk, where threads of Orbax would print tracebacks.

    Raises:
      OSError: less space, as far as the system can reserve it.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    path = folder / f".{os.getpid()}.space"
    try:
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, n_bytes)
    except OSError as error:
        if error.errno not in _FULL:
            return  # a disk that cannot reserve
        got = f"a full disk at {folder} ({error.strerror})"
        way_out = "Free some space there, or choose another folder."
        expected = f"{n_bytes:,} bytes of free space"
        raise OSError(message("checkpoint_dir", expected, got, way_out)) from error
    finally:
        path.unlink(missing_ok=True)


def _digest(folder: Path, step: int) -> str:
    """SHA-256 of the names and contents of all files of a saved state."""
    digest = hashlib.sha256()
    for path in sorted((folder / str(step)).rglob("*")):
        if path.is_file():
            digest.update(path.relative_to(folder).as_posix().encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


@contextmanager
def _ctrl_c_delayed() -> Iterator[None]:
    """Delay Ctrl-C to the end of the block: Orbax's writers cannot be interrupted safely."""
    on_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    if not (on_main_thread and callable(before)):
        yield
        return
    pending = []
    signal.signal(signal.SIGINT, lambda *received: pending.append(received))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pending:
        raise KeyboardInterrupt
