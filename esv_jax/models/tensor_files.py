"""Safetensors files with a JSON header, written atomically and verified by a digest."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import jax
import numpy as np

from esv_jax import extras
from esv_jax.checks import message
from esv_jax.files import JSONObject, atomic_path, make_folder

Model = TypeVar("Model")
PathLike: TypeAlias = str | os.PathLike[str]
Tensors: TypeAlias = Mapping[str, np.ndarray]
"""Arrays by name."""
Variables: TypeAlias = Mapping[str, Any]
"""Nested dicts of arrays by collection ("params", "batch_stats"), as Linen modules take them."""

ASSETS = Path(__file__).parent / "assets"
"""Folder of the models that come with the package."""
_VERSION = 1


@dataclasses.dataclass(frozen=True)
class TensorFormat:
    """A kind of file: arrays, and a JSON header that describes them.

    Attributes:
      name: of the header among the file's metadata.
      expected: the file in error messages, e.g. "a model written by save_model".
      kinds: accepted values of the header's entry "kind"; empty for headers without it.
    """

    name: str
    expected: str
    kinds: tuple[str, ...] = ()

    def write(self, path: PathLike, tensors: Tensors, header: JSONObject, digest: str) -> Path:
        """Write arrays and header; the folder is made if absent. Same arguments, same bytes.

        Raises:
          ValueError, OSError: a path that cannot be written to.
        """
        safetensors = extras.require("safetensors.numpy", "files")
        path = Path(path)
        text = json.dumps({"format": _VERSION, **header, "digest": digest}, allow_nan=False)
        content = safetensors.save(dict(tensors), metadata={self.name: text})
        make_folder(path.parent)
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
        return path

    def read(
        self, path: PathLike, build: Callable[[JSONObject, Tensors], tuple[Model, str]]
    ) -> Model:
        """Read a file of this format; runs no code of the file.

        Args:
          path: the file.
          build: from header and arrays to the model, and the digest that the header must have.
        Raises:
          FileNotFoundError: no such file. ValueError: a damaged or foreign file.
        """
        header, tensors = self._read(path)
        got, way_out = "", ""
        try:
            version, kind = header["format"], header["kind"] if self.kinds else None
            if version != _VERSION or (self.kinds and kind not in self.kinds):
                got = f"format {version}" + (f", kind {kind!r}" if self.kinds else "")
                way_out = "It may come from a newer version."
            else:
                stored = header["digest"]
                model, digest = build(header, tensors)
                if digest != stored:
                    got = "arrays that differ from the digest in the header"
        except KeyError as error:
            raise self._refused(path, f"no entry {error}") from error
        except (TypeError, ValueError, AttributeError, IndexError) as error:
            got = f"a header and arrays that do not go together ({error})"
            raise self._refused(path, got) from error
        if got:
            raise self._refused(path, got, way_out)
        return model

    def matches(self, path: PathLike) -> bool:
        """Return whether a file has a header of this name."""
        safetensors = extras.require("safetensors", "files")
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                return self.name in (file.metadata() or {})
        except (safetensors.SafetensorError, OSError):
            return False  # reading it as another format reports the error

    def _read(self, path: PathLike) -> tuple[JSONObject, Tensors]:
        """The header and the arrays of a file."""
        safetensors = extras.require("safetensors", "files")
        if not Path(path).is_file():
            raise FileNotFoundError(message(str(path), self.expected, "no such file"))
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except safetensors.SafetensorError as error:
            raise self._refused(path, f"a damaged or foreign file ({error})") from error
        if self.name not in metadata:
            raise self._refused(path, f"tensors without the header {self.name!r}")
        try:
            header = json.loads(metadata[self.name])
        except (ValueError, RecursionError):
            header = None
        if not isinstance(header, dict):
            raise self._refused(path, f"a damaged header {self.name!r}")
        return header, tensors

    def _refused(self, path: PathLike, got: str, way_out: str = "") -> ValueError:
        return ValueError(message(str(path), self.expected, got, way_out))


def named_leaves(tree: object) -> dict[str, Any]:
    """The arrays of a tree by their paths, e.g. "hidden.0.w"."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def tensors_of(tree: object) -> dict[str, np.ndarray]:
    """The leaves of a tree as contiguous NumPy arrays, by their paths."""
    return {name: np.ascontiguousarray(leaf) for name, leaf in named_leaves(tree).items()}


def digest_of(tensors: Tensors, start: str = "") -> str:
    """SHA-256 of text and arrays (names, dtypes, shapes, bytes): 64 hexadecimal digits."""
    digest = hashlib.sha256(start.encode())
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        digest.update(f"{name}:{array.dtype}:{array.shape};".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def to_half(tensors: Tensors) -> dict[str, np.ndarray]:
    """Arrays with the floating-point ones in half precision."""
    return {k: x.astype(np.float16) if x.dtype.kind == "f" else x for k, x in tensors.items()}


def from_half(tensors: Tensors) -> dict[str, np.ndarray]:
    """Arrays with those of half precision in single precision."""
    return {k: x.astype(np.float32) if x.dtype == np.float16 else x for k, x in tensors.items()}
