"""Backbones as one safetensors file each: arrays under their public names, and what they are.

The header holds one entry, "esv_jax": JSON with the kind, the architecture and a digest of the
arrays. The same weights always give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from esv_jax import checks, extras
from esv_jax.files import atomic_path, make_folder
from esv_jax.models.backbones.conversion import Variables
from esv_jax.models.backbones.registry import (
    BACKBONES,
    extractor,
    from_state_dict,
    to_state_dict,
)
from esv_jax.models.tensor_files import read_header

_FORMAT = 1
_HEADER = "esv_jax"
_KIND = "backbone"
_WRITTEN = "a backbone written by save_backbone"


def save_backbone(path: str | os.PathLike[str], name: str, variables: Variables) -> Path:
    """Write a backbone to one file, replacing a former one only when all is written.

    Args:
      path: the file, e.g. "trn_backbone.safetensors"; its folder is made if absent.
      name: "bninception" or "resnet50".
      variables: its weights, as `extractor` takes them.
    Returns:
      The path.
    Raises:
      ValueError, OSError: variables of another architecture, a folder in the place of a file, a
        file that cannot be written.
    """
    safetensors = extras.require("safetensors.numpy", "files")
    extractor(name, variables)  # asks whether the variables are of this backbone
    state, path = to_state_dict(variables), Path(path)
    header = {
        "format": _FORMAT,
        "kind": _KIND,
        "architecture": name,
        "digest": _digest(state),
    }
    content = safetensors.save(state, metadata={_HEADER: json.dumps(header)})
    make_folder(path.parent)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return path


def load_backbone(path: str | os.PathLike[str]) -> tuple[str, dict[str, Any]]:
    """The name and variables of a backbone written by `save_backbone`. Runs no code of the file.

    Raises:
      FileNotFoundError: no such file.
      ValueError: another kind of file, one of a newer version, damaged arrays.
    """
    safetensors = extras.require("safetensors", "files")
    if not Path(path).is_file():
        raise FileNotFoundError(checks.message(str(path), _WRITTEN, "no such file"))
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise _foreign(path, f"a damaged or foreign file ({error})") from error
    if _HEADER not in metadata:
        raise _foreign(path, f"tensors without the header {_HEADER!r}")
    header = read_header(metadata[_HEADER])
    if header is None:
        raise _foreign(path, f"a damaged header {_HEADER!r}")
    kind, version = header.get("kind"), header.get("format")
    if kind != _KIND:
        raise _foreign(path, f"a file of kind {kind!r}")
    if version != _FORMAT or header.get("architecture") not in BACKBONES:
        got = f"format {version}, architecture {header.get('architecture')!r}"
        raise _foreign(path, got, "It may come from a newer version.")
    if _digest(state) != header.get("digest"):
        raise _foreign(path, "arrays that differ from the digest in the header")
    return header["architecture"], from_state_dict(header["architecture"], state)


def backbone_digest(variables: Variables) -> str:
    """SHA-256 of the weights (names, dtypes, shapes, bytes): 64 hexadecimal digits."""
    return _digest(to_state_dict(variables))


def _digest(state: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        array = np.ascontiguousarray(state[name])
        digest.update(f"{name}:{array.dtype}:{array.shape};".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _foreign(path: Any, got: str, way_out: str = "") -> ValueError:
    return ValueError(checks.message(str(path), _WRITTEN, got, way_out))
