"""Arrays and a JSON header in one safetensors file, written complete or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from esv_jax import checks, extras
from esv_jax.files import atomic_path, make_folder

Model = TypeVar("Model")


def write_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, np.ndarray],
    name: str,
    header: Mapping[str, Any],
) -> Path:
    """Write arrays with a header under `name`; the folder is made if absent.

    The same arrays and header give the same bytes.

    Raises:
      ValueError, OSError: a folder in the place of a file, a file that cannot be written.
    """
    safetensors = extras.require("safetensors.numpy", "files")
    path = Path(path)
    text = json.dumps(header, allow_nan=False)
    content = safetensors.save(dict(tensors), metadata={name: text})
    make_folder(path.parent)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return path


def read_model(
    path: str | os.PathLike[str],
    name: str,
    writer: str,
    build: Callable[[dict[str, Any], dict[str, np.ndarray]], tuple[Model, str]],
    version: Callable[[dict[str, Any]], tuple[bool, str]],
) -> Model:
    """Read a file of `write_tensors`; nothing in the file is executed.

    Args:
      path: the file. name: of the header. writer: the function that writes such files, for people.
      build: header and arrays -> the model, and the digest that the header should say.
      version: header -> whether this version knows it, and what it is, for people.
    Raises:
      FileNotFoundError: no such file. ValueError: a damaged or foreign file.
    """
    header, tensors = _read(path, name, writer)
    try:
        known, got = version(header)
        if known:
            model, digest = build(header, tensors)
            intact = digest == header["digest"]
    except KeyError as error:
        raise _foreign(path, writer, f"no entry {error}") from error
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        got = f"a header and arrays that do not go together ({error})"
        raise _foreign(path, writer, got) from error
    if not known:
        raise _foreign(path, writer, got, "It may come from a newer version.")
    if not intact:
        raise _foreign(path, writer, "arrays that differ from the digest in the header")
    return model


def has_version(number: int) -> Callable[[dict[str, Any]], tuple[bool, str]]:
    """`version` of `read_model` for files whose headers have a number alone."""
    return lambda header: (header["format"] == number, f"format {header['format']}")


def has_header(path: str | os.PathLike[str], name: str) -> bool:
    """Return whether a file is of safetensors and has a header of this name."""
    safetensors = extras.require("safetensors", "files")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return name in (file.metadata() or {})
    except (safetensors.SafetensorError, OSError):
        return False  # reading it as another kind says what is wrong


def digest_of(tensors: Mapping[str, np.ndarray], start: str = "") -> str:
    """SHA-256 of text and arrays (names, dtypes, shapes, bytes): 64 hexadecimal digits."""
    digest = hashlib.sha256(start.encode())
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        digest.update(f"{name}:{array.dtype}:{array.shape};".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def halved(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Floating-point arrays in half precision."""
    return {
        name: array.astype(np.float16) if np.issubdtype(array.dtype, np.floating) else array
        for name, array in tensors.items()
    }


def widened(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays of half precision in single precision."""
    return {
        name: array.astype(np.float32) if array.dtype == np.float16 else array
        for name, array in tensors.items()
    }


def _read(
    path: str | os.PathLike[str], name: str, writer: str
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The header under `name` and the arrays; nothing in the file is executed.

    Args:
      path: the file. name: of the header. writer: the function that writes such files, for people.
    Raises:
      FileNotFoundError: no such file. ValueError: a damaged or foreign file.
    """
    safetensors = extras.require("safetensors", "files")
    if not Path(path).is_file():
        raise FileNotFoundError(
            checks.message(str(path), f"a model written by {writer}", "no such file")
        )
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise _foreign(path, writer, f"a damaged or foreign file ({error})") from error
    if name not in metadata:
        raise _foreign(path, writer, f"tensors without the header {name!r}")
    header = read_header(metadata[name])
    if header is None:
        raise _foreign(path, writer, f"a damaged header {name!r}")
    return header, tensors


def read_header(text: str) -> dict[str, Any] | None:
    """The JSON object that a header is; None where it is something else."""
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return header if isinstance(header, dict) else None


def _foreign(path: str | os.PathLike[str], writer: str, got: str, way_out: str = "") -> ValueError:
    """Return the error for a file that `writer` did not write."""
    return ValueError(checks.message(str(path), f"a model written by {writer}", got, way_out))
