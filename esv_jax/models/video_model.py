"""Video classifiers in one file: frame encoder, heads, prior and class names.

The encoder turns each frame into features on its own, so a video is encoded once, however many
subsequences are scored. The same model always gives the same bytes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from esv_jax.files import JSONObject
from esv_jax.models.frame_encoder import FrameEncoder
from esv_jax.models.heads import (
    HeadStack,
    TsnHead,
    head_arrays,
    stack_heads,
    unstack_heads,
)
from esv_jax.models.tensor_files import (
    ASSETS,
    PathLike,
    TensorFormat,
    Tensors,
    digest_of,
    from_half,
    tensors_of,
    to_half,
)
from esv_jax.models.trained import TrainedModel, from_header, header_of, model_digest

_FORMAT = TensorFormat("esv_jax.video_model", "a model written by save_video_model")


@dataclass(frozen=True, eq=False)
class VideoModel:
    """A classifier of videos.

        features = model.encoder(frames)                       # (n, D)
        explain(MultiScale(model.trained.heads), features, prior=model.trained.prior)

    Attributes:
      encoder: frames to features.
      trained: heads on these features, prior and class names.
      about: provenance, e.g. seed and accuracy; plain values, as JSON holds them.
    """

    encoder: FrameEncoder
    trained: TrainedModel
    about: JSONObject = field(default_factory=dict)


def load_synthetic_world() -> VideoModel:
    """The model that comes with the package, trained on `data.synthetic_videos`.

    Encoder "frame_cnn" with heads of scales 1..8; `about` holds its training settings and accuracy.
    Nothing is downloaded.
    """
    return load_video_model(ASSETS / "synthetic_world.safetensors")


def save_video_model(path: PathLike, model: VideoModel, *, half: bool = False) -> Path:
    """Write a model to one file and return its path; an existing file is replaced atomically.

    Args:
      path: the file, e.g. "model.safetensors"; its folder is made if absent.
      model: the model.
      half: store weights in half precision, at half the size; they come back in single
        precision, rounded. The prior keeps its precision.
    Raises:
      ValueError, OSError: a path that cannot be written to.
    """
    tensors = _tensors(model)
    if half:
        tensors = to_half(tensors) | {"prior": tensors["prior"]}
    header = {
        "encoder": model.encoder.name,
        "encoder_settings": dict(model.encoder.settings),
        **header_of(model.trained),
        "about": dict(model.about),
    }
    return _FORMAT.write(path, tensors, header, _model(header, tensors)[1])


def load_video_model(path: PathLike) -> VideoModel:
    """Read a model written by `save_video_model`; runs no code of the file.

    Raises:
      FileNotFoundError: no such file. ValueError: a damaged or foreign file, an unknown encoder.
    """
    return _FORMAT.read(path, _model)


def holds_encoder(path: PathLike) -> bool:
    """Return whether a file was written by `save_video_model`, by its header."""
    return _FORMAT.matches(path)


def video_model_digest(model: VideoModel) -> str:
    """SHA-256 of encoder, heads and prior (names, dtypes, shapes, bytes): 64 hexadecimal digits."""
    settings = json.dumps(dict(model.encoder.settings), sort_keys=True)
    start = f"{model_digest(model.trained)}{model.encoder.name}:{settings};"
    return digest_of(tensors_of({"encoder": model.encoder.variables}), start)


def _tensors(model: VideoModel) -> dict[str, np.ndarray]:
    """The arrays of a model by their names in the file; heads without their padding."""
    heads: object = model.trained.heads
    if isinstance(heads, HeadStack):
        heads = dict(enumerate(unstack_heads(heads), start=1))
    prior = np.asarray(model.trained.prior, np.float64)
    return tensors_of({"encoder": model.encoder.variables, "heads": heads, "prior": prior})


def _model(header: JSONObject, tensors: Tensors) -> tuple[VideoModel, str]:
    """The model that header and arrays describe, in single precision, and its digest."""
    wide = from_half(tensors)
    flat = {name: jnp.asarray(wide[name]) for name in wide if name.startswith("encoder.")}
    variables = traverse_util.unflatten_dict(flat, sep=".").get("encoder", {})
    model = VideoModel(
        encoder=FrameEncoder(header["encoder"], header["encoder_settings"], variables),
        trained=from_header(header, _heads(header, wide), wide["prior"]),
        about=header["about"],
    )
    return model, video_model_digest(model)


def _heads(header: JSONObject, tensors: Tensors) -> HeadStack | TsnHead:
    n_max, input_relu = header["n_max"], header["input_relu"]
    if n_max is None:
        w, b = jnp.asarray(tensors["heads.w"]), jnp.asarray(tensors["heads.b"])
        return TsnHead(w, b, input_relu)
    heads = [head_arrays(tensors, f"heads.{s}.") for s in range(1, n_max + 1)]
    return stack_heads(heads, input_relu)
