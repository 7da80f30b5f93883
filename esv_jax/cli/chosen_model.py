"""The model that a command explains with: shipped or from a file, with an encoder of frames."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from esv_jax import models
from esv_jax.checkpoints import load_torch
from esv_jax.checks import expect
from esv_jax.data.inputs import Encoder

_WAY_OUT = "Add --backbone WEIGHTS, or give a model that holds its encoder."


@dataclasses.dataclass(frozen=True, eq=False)
class ChosenModel:
    """Heads with their prior and classes, and what makes features of frames.

    Attributes:
      trained: heads, prior and class names.
      digest: of all its weights.
      encoder: uint8 frames (n, h, w, 3) to features (n, D); None where only features are taken.
      note: a sentence to print about the model, or "".
    """

    trained: models.TrainedModel
    digest: str
    encoder: Encoder | None = None
    note: str = ""


def choose_model(path: Path | None, backbone: Path | None, *, videos: bool) -> ChosenModel:
    """Load what `--model` and `--backbone` name; by default, for videos, the shipped model.

    Args:
      path: a model of `esv-jax train` or `import-play-fair` (on features), or one with its own
        encoder, as `models.save_video_model` writes them.
      backbone: weights of BN-Inception or ResNet-50 that make a former kind's features.
      videos: whether frames are to be explained.
    Raises:
      ValueError: no model for features, no encoder for videos, a backbone of other features.
    """
    if path is None:
        expect(videos, "model", "a file of weights (--model)", "none", "Train one: esv-jax train")
        expect(backbone is None, "backbone", "a --model beside it", "none")
        shipped = models.load_synthetic_world()
        names = shipped.trained.class_names
        note = (
            f"The model that comes with this package knows only its {len(names)} made-up classes "
            f"({names[0]}, {names[1]}, ...). Name your own with --model."
        )
        return _of_video_model(shipped, note)
    if models.holds_encoder(path):
        expect(backbone is None, "backbone", "none beside a model with an encoder", str(backbone))
        return _of_video_model(models.load_video_model(path))
    trained = models.load_model(path)
    digest = models.model_digest(trained)
    if backbone is None:
        expect(not videos, "model", "one that takes frames", f"{path}, on features", _WAY_OUT)
        return ChosenModel(trained, digest)
    return _of_video_model(with_backbone(trained, backbone))


def read_backbone(path: Path, *, pooled: bool = False) -> tuple[str, dict[str, Any]]:
    """Architecture and variables of a backbone, from `.safetensors` or a `.pth` state dict.

    Args:
      path: the file.
      pooled: without the last layer.
    Raises:
      ValueError, TypeError: naming the file; not one of the known architectures.
      FileNotFoundError: no such file.
    """
    backbones = models.backbones
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


def _of_video_model(model: models.VideoModel, note: str = "") -> ChosenModel:
    return ChosenModel(model.trained, models.video_model_digest(model), model.encoder, note)


def with_backbone(model: models.TrainedModel, path: Path) -> models.VideoModel:
    """A model on features, and the backbone that makes them.

    Raises:
      ValueError: a backbone of another width. FileNotFoundError: no such file.
    """
    name, variables = read_backbone(path)
    width, wanted = models.backbones.n_features(name, variables), model.heads.feature_dim
    expect(width == wanted, "backbone", f"{wanted} features per frame", f"{width} in {path}")
    has_last = width != models.backbones.BACKBONES[name].pooled_dim
    settings = {"n_outputs": width if has_last else None}
    return models.VideoModel(models.FrameEncoder(name, settings, variables), model)
