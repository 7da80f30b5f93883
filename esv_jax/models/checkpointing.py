"""The whole state of a training run on disk, so that a stopped run can go on."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from esv_jax import checks

T = TypeVar("T")

_KEPT = 2


class TrainingCheckpoints:
    """Where and how often a run is saved; without a folder, nowhere.

    Args:
      folder: made if absent; None saves nothing.
      every: epochs between saved states.
    """

    def __init__(self, folder: str | PathLike[str] | None, every: int = 1) -> None:
        self.folder = None if folder is None else Path(folder).resolve()
        self.every = checks.expect_int("checkpoint_every", every, minimum=1)

    @contextmanager
    def open(self, settings: Mapping[str, Any]) -> Iterator[SavedRun]:
        """Open the folder for a run with these settings (plain values, compared on resuming)."""
        if self.folder is None:
            yield SavedRun(None, {}, self.every)
            return
        import orbax.checkpoint as ocp

        options = ocp.CheckpointManagerOptions(max_to_keep=_KEPT, enable_async_checkpointing=False)
        with ocp.CheckpointManager(self.folder, options=options) as manager:
            yield SavedRun(manager, json.loads(json.dumps(settings)), self.every)


class SavedRun:
    """An open folder of training states. Orbax writes each beside its place, then renames it."""

    def __init__(self, manager: Any, settings: Mapping[str, Any], every: int) -> None:
        self._manager = manager
        self._settings = settings
        self._every = every

    def restore(self, state: T) -> T:
        """The latest saved state, or `state` (which also gives the structure) if there is none."""
        if self._manager is None or self._manager.latest_step() is None:
            return state
        import orbax.checkpoint as ocp

        step = self._manager.latest_step()
        settings = self._manager.restore(
            step, args=ocp.args.Composite(settings=ocp.args.JsonRestore())
        )["settings"]
        self._expect_same(settings)
        leaves, structure = _named_leaves(state)
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore({name: np.asarray(v) for name, v in leaves.items()})
            ),
        )["state"]
        return jax.tree.unflatten(
            structure,
            [
                jnp.asarray(restored[name]) if isinstance(leaf, jax.Array) else restored[name]
                for name, leaf in leaves.items()
            ],
        )

    def save(self, state: Any, step: int, last: bool = False) -> None:
        """Save the state after `step` epochs, where one is due or it is the `last`."""
        if self._manager is None or step == self._manager.latest_step():
            return
        if not last and step % self._every:
            return
        import orbax.checkpoint as ocp

        leaves = {name: np.asarray(leaf) for name, leaf in _named_leaves(state)[0].items()}
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(leaves), settings=ocp.args.JsonSave(self._settings)
        )
        with _ctrl_c_waits():
            self._manager.save(step, args=args, force=True)

    def _expect_same(self, found: Mapping[str, Any]) -> None:
        """Refuse to continue a run that was begun with other settings or data."""
        differing = [
            name
            for name in sorted({*found, *self._settings})
            if found.get(name) != self._settings.get(name)
        ]
        if not differing:
            return
        expected = ", ".join(f"{name}={found.get(name)!r}" for name in differing)
        got = ", ".join(f"{name}={self._settings.get(name)!r}" for name in differing)
        way_out = "Use another folder, or what the run began with."
        raise ValueError(checks.message("checkpoint_dir", f"a run with {expected}", got, way_out))


@contextmanager
def _ctrl_c_waits() -> Iterator[None]:
    """Delay Ctrl-C until the block is over: in the middle, Orbax's writers lose each other."""
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


def _named_leaves(state: Any) -> tuple[dict[str, Any], Any]:
    """The arrays of a state by their path, and its structure."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(state)
    named = {jax.tree_util.keystr(path, simple=True, separator="."): v for path, v in leaves}
    return named, structure
