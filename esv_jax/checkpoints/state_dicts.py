"""The state dict of a torch checkpoint as NumPy arrays, wherever the file keeps it."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from typing import Any, Literal

import numpy as np

from esv_jax.checkpoints.archives import Archive, open_archive
from esv_jax.checkpoints.inert import CheckpointError, Unknown, expect, short
from esv_jax.checkpoints.tensors import Tensor, to_array
from esv_jax.checks import message

STATE_KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
_SHOWN = 8  # keys in a message
_SPREAD = 8  # bytes of arrays per byte of the file
_ALWAYS = 2**24  # bytes of arrays that any file may become


@dataclass(frozen=True, eq=False)
class TorchCheckpoint:
    """Content of a torch checkpoint.

    Attributes:
      arrays: the state dict, names as stored.
      layout: "zip" or "legacy" (before torch 1.6).
      found_under: the entry that held the state dict, "" where it is the whole file.
      ignored: entries that were left alone, e.g. "optimizer".
    """

    arrays: dict[str, np.ndarray]
    layout: Literal["zip", "legacy"]
    found_under: str
    ignored: tuple[str, ...]


def load_torch(path: str | PathLike[str]) -> dict[str, np.ndarray]:
    """The state dict of a `.pth` file by name, without torch and without running the file.

    It is looked for under "state_dict", "model_state_dict", "model", "net", "network" and
    "weights", in this order, then at the top. All else (optimiser, epoch, arguments) is left
    alone, and so are entries of the state dict that are no arrays.

    Args:
      path: a checkpoint of torch 0.1.10 or later, in either layout.
    Returns:
      Names exactly as stored, a prefix "module." of parallel training included. Each array is a
      contiguous copy in native byte order, in the dtype of the tensor; bfloat16 becomes float32.
    Raises:
      FileNotFoundError: no such file.
      CheckpointError: (a ValueError) a file of another kind, damaged, or in big-endian order; no
        state dict; a sparse, quantised or otherwise special tensor in it; tensors that look at
        one place so often that they would take over 8 times the size of the file.
    Cost: reads the entries of the state dict, each once.
    """
    return read_torch(path).arrays


def read_torch(path: str | PathLike[str]) -> TorchCheckpoint:
    """As `load_torch`, with what was found where."""
    name = str(path)
    with open_archive(path) as archive:
        found_under, state = _state_dict(archive.root, name)
        ignored = [short(key) for key in archive.root if key != found_under] if found_under else []
        entries: dict[str, Tensor | np.ndarray] = {}
        for key, value in state.items():
            _expect_no_special(key, value, name)
            if isinstance(key, str) and isinstance(value, Tensor | np.ndarray):
                entries[key] = value
            else:
                ignored.append(f"{found_under}: {short(key)}" if found_under else short(key))
        arrays = _arrays(entries, archive, name)
    return TorchCheckpoint(arrays, archive.layout, found_under, tuple(ignored))


def _state_dict(root: Any, name: str) -> tuple[str, dict[Any, Any]]:
    """The dict of arrays, and the key it stands under."""
    if isinstance(root, Unknown):
        got, way_out = f"a whole object ({short(root)})", "Save its state_dict() instead."
        raise CheckpointError(message(name, "a state dict", got, way_out))
    expect(isinstance(root, dict), name, "a dict with a state dict", short(root))
    for key in STATE_KEYS:
        if _holds_arrays(root.get(key)):
            return key, root[key]
    keys = ", ".join(short(key) for key in list(root)[:_SHOWN])
    more = ", ..." if len(root) > _SHOWN else ""
    got = f"entries {keys}{more}" if root else "an empty dict"
    expected = "a state dict at the top or under " + ", ".join(STATE_KEYS)
    expect(_holds_arrays(root), name, expected, got)
    return "", root


def _holds_arrays(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    return any(isinstance(entry, Tensor | np.ndarray) for entry in value.values())


def _expect_no_special(key: Any, value: Any, name: str) -> None:
    """Refuse a tensor that is none of ours: leaving it out would go unseen."""
    special = isinstance(value, Unknown) and value.module.split(".")[0] == "torch"
    special = special and value.name.startswith("_rebuild")
    expect(not special, name, f"a dense tensor {short(key)}", short(value))


def _arrays(
    entries: dict[str, Tensor | np.ndarray], archive: Archive, name: str
) -> dict[str, np.ndarray]:
    bound = _SPREAD * archive.n_bytes + _ALWAYS
    total = sum(entry.nbytes for entry in entries.values())
    expect(total <= bound, name, f"tensors of at most {bound} bytes in all", total)
    of_storage: dict[str, list[str]] = {}  # each storage is read once, however many look at it
    for key, entry in entries.items():
        if isinstance(entry, Tensor):
            of_storage.setdefault(entry.storage.key, []).append(key)
    arrays = {key: entry for key, entry in entries.items() if isinstance(entry, np.ndarray)}
    for keys in of_storage.values():
        raw: bytes | None = None
        for key in keys:
            entry = entries[key]
            if isinstance(entry, Tensor):
                raw = archive.read(entry.storage) if raw is None else raw
                arrays[key] = to_array(entry, raw)
    return {key: arrays[key] for key in entries}
