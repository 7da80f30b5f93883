"""A whole video classifier: frame encoder, heads, prior and class names, in memory and on disk.

The encoder turns each frame into features on its own, so that the features of a subsequence are
some of those of the video: a video is encoded once, however many subsequences are scored.
Encoders go by name. One file holds everything; the same model always gives the same bytes.
"""

from __future__ import annotations

import importlib.resources
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from esv_jax.models.config import TrainConfig
from esv_jax.models.frame_encoder import FrameEncoder
from esv_jax.models.heads import HeadStack, TsnHead, stack_heads, unstack_heads
from esv_jax.models.tensor_files import (
    digest_of,
    halved,
    has_header,
    has_version,
    read_model,
    widened,
    write_tensors,
)
from esv_jax.models.trained import History, TrainedModel
from esv_jax.models.weights import model_digest

_FORMAT = 1
_HEADER = "esv_jax.video_model"
_WRITER = "save_video_model"
_LAYERS = ("w1", "b1", "w2", "b2")


@dataclass(frozen=True, eq=False)
class VideoModel:
    """A classifier of videos with all that explaining it needs.

        features = model.encoder(frames)                       # (n, D)
        explain(MultiScale(model.trained.heads), features, prior=model.trained.prior)

    Attributes:
      encoder: frames to features.
      trained: heads on these features, prior and class names.
      about: where it comes from: seed, accuracy and the like; plain values, as JSON holds them.
    """

    encoder: FrameEncoder
    trained: TrainedModel
    about: Mapping[str, Any] = field(default_factory=dict)


def load_synthetic_world() -> VideoModel:
    """The model that comes with the package, trained on `data.synthetic_videos`.

    Encoder "frame_cnn" with heads of scales 1..8; `about` says how it was trained and how often it
    is right. Nothing is downloaded.
    """
    place = importlib.resources.files("esv_jax.models") / "assets" / "synthetic_world.safetensors"
    with importlib.resources.as_file(place) as path:
        return load_video_model(path)


def save_video_model(
    path: str | os.PathLike[str], model: VideoModel, *, half: bool = False
) -> Path:
    """Write a model to one file, replacing a former one only when all is written.

    Args:
      path: the file, e.g. "model.safetensors"; its folder is made if absent.
      model: what is written.
      half: store weights in half precision, at half the size; they come back in single
        precision, rounded. The prior keeps its precision.
    Returns:
      The path.
    Raises:
      ValueError, OSError: a folder in the place of a file, a file that cannot be written.
    """
    tensors = _tensors(model)
    if half:
        tensors = halved(tensors) | {"prior": tensors["prior"]}
    trained = model.trained
    header = {
        "format": _FORMAT,
        "encoder": model.encoder.name,
        "encoder_settings": dict(model.encoder.settings),
        "n_max": trained.heads.n_max if isinstance(trained.heads, HeadStack) else None,
        "input_relu": trained.heads.input_relu,
        "class_names": list(trained.class_names),
        "config": None if trained.config is None else asdict(trained.config),
        "history": None if trained.history is None else trained.history.to_json(),
        "about": dict(model.about),
    }
    header["digest"] = video_model_digest(_model(header, tensors))
    return write_tensors(path, tensors, _HEADER, header)


def load_video_model(path: str | os.PathLike[str]) -> VideoModel:
    """Read a model written by `save_video_model`. Nothing in the file is executed.

    Raises:
      FileNotFoundError: no such file.
      ValueError: a damaged or foreign file, an encoder that is not registered.
    """

    def build(header: dict[str, Any], tensors: dict[str, np.ndarray]) -> tuple[VideoModel, str]:
        model = _model(header, tensors)
        return model, video_model_digest(model)

    return read_model(path, _HEADER, _WRITER, build, has_version(_FORMAT))


def holds_encoder(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is a model of `save_video_model`, by its header."""
    return has_header(path, _HEADER)


def video_model_digest(model: VideoModel) -> str:
    """SHA-256 of encoder, heads and prior (names, dtypes, shapes, bytes): 64 hexadecimal digits."""
    settings = json.dumps(dict(model.encoder.settings), sort_keys=True)
    start = f"{model_digest(model.trained)}{model.encoder.name}:{settings};"
    return digest_of(_encoder_tensors(model.encoder), start)


def _encoder_tensors(encoder: FrameEncoder) -> dict[str, np.ndarray]:
    flat = traverse_util.flatten_dict(dict(encoder.variables), sep=".")
    return {f"encoder.{name}": np.ascontiguousarray(array) for name, array in flat.items()}


def _tensors(model: VideoModel) -> dict[str, np.ndarray]:
    """The arrays of a model by the names they have in the file; heads without their padding."""
    heads = model.trained.heads
    named: dict[str, Any] = {"prior": np.asarray(model.trained.prior, np.float64)}
    if isinstance(heads, HeadStack):
        for s, head in enumerate(unstack_heads(heads), start=1):
            layers: dict[str, Any] = {**head}
            for i, layer in enumerate(layers.pop("hidden")):
                named |= {f"heads.{s}.hidden.{i}.{name}": layer[name] for name in ("w", "b")}
            named |= {f"heads.{s}.{name}": array for name, array in layers.items()}
    else:
        named |= {"heads.w": heads.w, "heads.b": heads.b}
    arrays = {name: np.ascontiguousarray(array) for name, array in named.items()}
    return arrays | _encoder_tensors(model.encoder)


def _model(header: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> VideoModel:
    """The model that a header and arrays describe; half precision becomes single."""
    wide = widened(tensors)
    start = "encoder."
    flat = {
        name.removeprefix(start): jnp.asarray(array)
        for name, array in wide.items()
        if name.startswith(start)
    }
    variables = traverse_util.unflatten_dict(flat, sep=".")
    trained = TrainedModel(
        heads=_heads(header, wide),
        prior=wide["prior"],
        class_names=tuple(header["class_names"]),
        history=None if header["history"] is None else History.from_json(header["history"]),
        config=_config(header["config"]),
    )
    encoder = FrameEncoder(header["encoder"], header["encoder_settings"], variables)
    return VideoModel(encoder=encoder, trained=trained, about=header["about"])


def _heads(header: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> HeadStack | TsnHead:
    input_relu = header["input_relu"]
    if header["n_max"] is None:
        w, b = jnp.asarray(tensors["heads.w"]), jnp.asarray(tensors["heads.b"])
        return TsnHead(w=w, b=b, input_relu=input_relu)
    heads: list[dict[str, Any]] = []
    for s in range(1, header["n_max"] + 1):
        n_hidden = sum(name.startswith(f"heads.{s}.hidden.") for name in tensors) // 2
        head: dict[str, Any] = {name: tensors[f"heads.{s}.{name}"] for name in _LAYERS}
        head["hidden"] = [
            {name: tensors[f"heads.{s}.hidden.{i}.{name}"] for name in ("w", "b")}
            for i in range(n_hidden)
        ]
        heads.append(head)
    return stack_heads(heads, input_relu)


def _config(settings: Mapping[str, Any] | None) -> TrainConfig | None:
    """The settings this version knows; a file of another version may name more or fewer."""
    if settings is None:
        return None
    known = {setting.name for setting in fields(TrainConfig)}
    return TrainConfig(**{name: value for name, value in settings.items() if name in known})
