"""Options shared by several commands."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from jax.typing import ArrayLike

from esv_jax import models
from esv_jax.checkpoints import load_torch
from esv_jax.checks import expect, message
from esv_jax.data.classes import class_index
from esv_jax.data.inputs import Encoder, Inputs, is_video, open_inputs, open_videos
from esv_jax.estimators import Constructive, Exact, Surrogate
from esv_jax.files import JSONObject, expect_writable
from esv_jax.inputs import EstimatorChoice
from esv_jax.models import backbones
from esv_jax.models.frame_encoder import FrameEncoder
from esv_jax.models.trained import model_digest
from esv_jax.models.video_model import VideoModel, holds_encoder, video_model_digest

_LONGEST = 120  # bytes of a name in UTF-8; endings such as "_perturbed.mp4" follow, 255 fit


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequenceOptions:
    """Options of the commands that compute Element Shapley Values."""

    data: tyro.conf.Positional[Path]
    """Video, folder or list (.txt, .csv) of videos; or sequences: .ts, .npy (n, D) or (V, n, D), an
    HDF5 feature store."""
    model: Path | None = None
    """Weights of esv-jax train or import-play-fair; default for videos: the shipped model."""
    backbone: Path | None = None
    """Weights that compute the features of --model from frames: .safetensors or .pth."""
    frames: int | Literal["all"] = "all"
    """Number of elements to explain, at segment centres; of shorter sequences all."""
    estimator: Literal["auto", "exact", "surrogate", "constructive"] = "auto"
    """Estimator; auto: exact if it fits, otherwise the best sampled one for the model."""
    surrogate: Surrogate = Surrogate()
    """Settings of the surrogate estimator."""
    constructive: Constructive = Constructive()
    """Settings of the paper's Algorithm 1."""
    label: str | None = None
    """Label of an HDF5 store that is the class; default "action", or the only one."""
    uids: tuple[str, ...] = ()
    """Videos or sequences to explain; default all."""
    limit: int | None = None
    """Explain the first N videos or sequences."""
    seed: int = 0
    """Seed of the sampled estimators, whose draws depend on it and on the uid alone."""

    @property
    def n_frames(self) -> int | None:
        """Number of elements to explain; None for all."""
        return None if isinstance(self.frames, str) else self.frames

    def make_estimator(self) -> EstimatorChoice:
        """Return the estimator with its settings."""
        named = {"surrogate": self.surrogate, "constructive": self.constructive, "exact": Exact()}
        return named.get(self.estimator, "auto")

    def load(self, classes: Path | None) -> tuple[LoadedModel, Inputs]:
        """Load the model and open the data; `classes` is a CSV of class names."""
        videos = is_video(self.data)
        loaded = load_model(self.model, self.backbone, videos=videos)
        if videos and loaded.encoder is not None:
            return loaded, open_videos(self.data, loaded.encoder, classes)
        return loaded, open_inputs(self.data, self.label, classes)


# The model


@dataclasses.dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model on features, with an encoder of frames if there is one.

    Attributes:
      trained: heads, prior and class names.
      digest: of all weights.
      encoder: uint8 frames (n, h, w, 3) to features (n, D); None for a model on features only.
      note: a sentence to print about the model, or "".
    """

    trained: models.TrainedModel
    digest: str
    encoder: Encoder | None = None
    note: str = ""


def load_model(path: Path | None, backbone: Path | None, *, videos: bool) -> LoadedModel:
    """Load the files of `--model` and `--backbone`; for videos the default is the shipped model.

    Args:
      path: a model on features, or one with its own encoder.
      backbone: weights that compute the features of a model on features.
      videos: whether the data are videos, which need an encoder.
    """
    if path is None:
        expect(videos, "model", "a file of weights (--model)", "none", "Train one: esv-jax train")
        expect(backbone is None, "backbone", "a --model beside it", "none")
        shipped = models.load_synthetic_world()
        names = shipped.trained.class_names
        note = (
            f"The model of this package was trained on {len(names)} synthetic classes "
            f"({names[0]}, {names[1]}, ...). Pass your own with --model."
        )
        return _with_encoder(shipped, note)
    if holds_encoder(path):
        expect(backbone is None, "backbone", "none beside a model with an encoder", str(backbone))
        return _with_encoder(models.load_video_model(path))
    trained = models.load_model(path)
    if backbone is not None:
        return _with_encoder(with_backbone(trained, backbone))
    way_out = "Add --backbone WEIGHTS, or pass a model with an encoder."
    expect(not videos, "model", "one that takes frames", f"{path}, on features", way_out)
    return LoadedModel(trained, model_digest(trained))


def _with_encoder(model: VideoModel, note: str = "") -> LoadedModel:
    return LoadedModel(model.trained, video_model_digest(model), model.encoder, note)


def with_backbone(model: models.TrainedModel, path: Path) -> VideoModel:
    """Join a model on features and the backbone that computes them, if their widths agree."""
    name, variables = read_backbone(path)
    width, wanted = backbones.n_features(name, variables), model.heads.feature_dim
    expect(width == wanted, "backbone", f"{wanted} features per frame", f"{width} in {path}")
    has_last = width != backbones.BACKBONES[name].pooled_dim
    settings = {"n_outputs": width if has_last else None}
    return VideoModel(FrameEncoder(name, settings, variables), model)


def read_backbone(path: Path, *, pooled: bool = False) -> tuple[str, dict[str, Any]]:
    """Return architecture and variables of a backbone, from `.safetensors` or a `.pth` state dict.

    With `pooled` the last layer is omitted. ValueError, TypeError: an unknown architecture.
    """
    if path.suffix.lower() == ".safetensors":
        name, variables = backbones.load_backbone(path)
        if not pooled:
            return name, variables
        state = backbones.to_state_dict(variables)
    else:
        state = load_torch(path)
    try:
        name = backbones.recognise(state)
        return name, backbones.from_state_dict(name, state, last_layer=not pooled)
    except (ValueError, TypeError) as error:
        raise type(error)(f"{path}, {error}") from None


def class_of(name: str, scores: ArrayLike, names: tuple[str, ...]) -> int:
    """Return the index of a class by name or id; of "pred" that of the highest score."""
    return int(np.argmax(scores)) if name == "pred" else class_index(name, names)


# The output


def file_name(uid: str) -> str:
    """Return the stem of a uid's files: letters, digits, "-", "_", "."; "_" for other characters.

    If characters are replaced or a long name is cut, the name ends in a digest of the whole uid, so
    that the files of different uids have different names.
    """
    name = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in uid)
    name = name if name.strip(".") else f"_{name}"  # "." and ".." are folders
    if name == uid and len(name.encode()) <= _LONGEST:
        return name
    digest = hashlib.blake2b(uid.encode(errors="surrogatepass"), digest_size=4).hexdigest()
    start = name.encode()[: _LONGEST - len(digest) - 1].decode(errors="ignore")
    return f"{start}-{digest}"


def expect_free(path: Path, *, overwrite: bool) -> None:
    """Check that a file of results can be written, and replaced if it exists, before the work."""
    if path.exists() and not overwrite:
        raise FileExistsError(
            message("out", "a file that does not exist yet", path, "Add --overwrite.")
        )
    expect_writable(path)


def settings_of(name: str, command: Any, digest: str) -> JSONObject:
    """Return the settings stored with results: command, options and model digest."""
    options = json.loads(json.dumps(dataclasses.asdict(command), default=str))
    return {"command": name, **options, "model_digest": digest}
