"""Trained models as one safetensors file each: arrays, and in the header what they mean.

The header holds one entry, "esv_jax": JSON with the kind of model, class names, settings and
history. The same model always gives the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from esv_jax.models.config import TrainConfig
from esv_jax.models.heads import HeadStack, HiddenLayer, TsnHead
from esv_jax.models.tensor_files import digest_of, read_model, write_tensors
from esv_jax.models.trained import History, TrainedModel

_FORMAT = 1
_HEADER = "esv_jax"
_WRITER = "save_model"
_KINDS = ("multi_scale", "average_consensus")


def save_model(path: str | os.PathLike[str], model: TrainedModel) -> Path:
    """Write a model to one file, replacing a former one only when all is written.

    Args:
      path: the file, e.g. "model.safetensors"; its folder is made if absent.
      model: what training gave.
    Returns:
      The path.
    Raises:
      ValueError, OSError: a folder in the place of a file, a file that cannot be written.
    """
    header = {
        "format": _FORMAT,
        "kind": _kind(model.heads),
        "n_max": model.heads.n_max if isinstance(model.heads, HeadStack) else None,
        "input_relu": model.heads.input_relu,
        "class_names": list(model.class_names),
        "config": None if model.config is None else asdict(model.config),
        "history": None if model.history is None else model.history.to_json(),
        "digest": model_digest(model),
    }
    return write_tensors(path, _tensors(model), _HEADER, header)


def load_model(path: str | os.PathLike[str]) -> TrainedModel:
    """Read a model written by `save_model`. Nothing in the file is executed.

    Weights in double precision come back in double precision in JAX's x64 mode only.
    """

    def version(header: dict[str, Any]) -> tuple[bool, str]:
        known = header["format"] == _FORMAT and header["kind"] in _KINDS
        return known, f"format {header['format']}, kind {header['kind']!r}"

    return read_model(path, _HEADER, _WRITER, _model, version)


def model_digest(model: TrainedModel) -> str:
    """SHA-256 of weights and prior (names, dtypes, shapes, bytes): 64 hexadecimal digits."""
    return digest_of(_tensors(model))


def _model(
    header: Mapping[str, Any], tensors: Mapping[str, np.ndarray]
) -> tuple[TrainedModel, str]:
    """The model that a header and arrays describe, and the digest of the arrays."""
    model = TrainedModel(
        heads=_heads(header, tensors),
        prior=tensors["prior"],
        class_names=tuple(header["class_names"]),
        history=None if header["history"] is None else History.from_json(header["history"]),
        config=_config(header["config"]),
    )
    return model, digest_of(tensors)


def _kind(heads: HeadStack | TsnHead) -> str:
    return _KINDS[0] if isinstance(heads, HeadStack) else _KINDS[1]


def _tensors(model: TrainedModel) -> dict[str, np.ndarray]:
    """The arrays of a model by the names they have in the file."""
    heads = model.heads
    if isinstance(heads, HeadStack):
        named = {"w1": heads.w1, "b1": heads.b1, "w2": heads.w2, "b2": heads.b2}
        for i, layer in enumerate(heads.hidden):
            named |= {f"hidden.{i}.w": layer.w, f"hidden.{i}.b": layer.b}
    else:
        named = {"w": heads.w, "b": heads.b}
    arrays = {name: np.ascontiguousarray(array) for name, array in named.items()}
    return arrays | {"prior": np.ascontiguousarray(model.prior, dtype=np.float64)}


def _heads(header: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> HeadStack | TsnHead:
    arrays = {name: jnp.asarray(array) for name, array in tensors.items() if name != "prior"}
    if header["kind"] == "average_consensus":
        return TsnHead(w=arrays["w"], b=arrays["b"], input_relu=header["input_relu"])
    n_hidden = sum(name.startswith("hidden.") for name in arrays) // 2
    return HeadStack(
        **{name: arrays[name] for name in ("w1", "b1", "w2", "b2")},
        hidden=tuple(
            HiddenLayer(w=arrays[f"hidden.{i}.w"], b=arrays[f"hidden.{i}.b"])
            for i in range(n_hidden)
        ),
        input_relu=header["input_relu"],
    )


def _config(settings: Mapping[str, Any] | None) -> TrainConfig | None:
    """The settings this version knows; a file of another version may name more or fewer."""
    if settings is None:
        return None
    known = {field.name for field in fields(TrainConfig)}
    return TrainConfig(**{name: value for name, value in settings.items() if name in known})
