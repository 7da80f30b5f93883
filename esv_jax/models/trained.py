"""Trained models: settings, parameters, history, and their safetensors files.

A file holds the arrays; its header "esv_jax" holds the kind of model, class names, settings and
history. The same model always gives the same bytes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from esv_jax import checks
from esv_jax.files import JSONObject
from esv_jax.models.heads import HeadStack, TsnHead, head_arrays, stack_of
from esv_jax.models.tensor_files import PathLike, TensorFormat, Tensors, digest_of, tensors_of

_KINDS = ("multi_scale", "average_consensus")
_FORMAT = TensorFormat("esv_jax", "a model written by save_model", _KINDS)


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run; with the data they determine its result on one backend."""

    n_max: int = 8
    """Largest scale that gets its own head; for average consensus, elements drawn per step."""
    hidden_dim: int = 256
    """Hidden width of each head (unused by average consensus)."""
    n_hidden_layers: int = 1
    """Hidden layers of each head (unused by average consensus)."""
    input_relu: bool = False
    """Pass features through a ReLU before the first layer."""
    standardise: bool = True
    """Train on features of mean 0 and standard deviation 1, folded back into the first layer
    afterwards. Features that pass a ReLU first are left as they are."""
    dropout: float = 0.5
    """Probability of dropping a hidden activation (average consensus: a feature) in training."""
    batch_norm: bool = False
    """Normalise each hidden layer before its ReLU (unused by average consensus)."""
    learning_rate: float = 3e-3
    """Highest learning rate of AdamW, reached after the warm-up, then a cosine down to 0."""
    weight_decay: float = 1e-2
    """AdamW's decay of weights (not of biases and norms)."""
    warmup_fraction: float = 0.05
    """Share of all steps in which the learning rate climbs from 0."""
    batch_size: int = 64
    """Sequences per step; every scale draws one subsequence from each."""
    max_epochs: int = 200
    """Passes over the training sequences, unless stopped early; sets the length of the cosine."""
    patience: int = 30
    """Stop after this many epochs without a better validation accuracy."""
    validation_fraction: float | None = None
    """Share of each class held out for validation where no validation set is given; default a tenth
    of each class, at least one of each that has two. At 0, or where no class has two, the last
    epoch is kept instead of the best."""
    validation_subsequences: int = 16
    """Subsequences of each scale that estimate the validation accuracy (the same every epoch)."""
    prior_smoothing: float = 0.0
    """Examples added to each class before counting the class prior. At 0 the prior is the
    relative frequency, and a class without examples has prior 0."""
    seed: int = 0
    """Seed of initial weights, split, order, subsequences and dropout."""

    def __post_init__(self) -> None:
        """Refuse settings out of range."""
        for name in ("n_max", "hidden_dim", "n_hidden_layers", "batch_size", "max_epochs"):
            checks.expect_int(name, getattr(self, name), minimum=1)
        for name in ("patience", "validation_subsequences"):
            checks.expect_int(name, getattr(self, name), minimum=1)
        checks.expect_int("seed", self.seed, minimum=0)
        for name in ("dropout", "warmup_fraction", "validation_fraction"):
            value = getattr(self, name)
            is_share = value is None or 0 <= value < 1
            checks.expect(is_share, name, "a share in [0, 1)", value)
        for name, sign in (
            ("weight_decay", ">="),
            ("prior_smoothing", ">="),
            ("learning_rate", ">"),
        ):
            value = getattr(self, name)
            fits = 0 <= value < float("inf") and (value > 0 or sign == ">=")
            checks.expect(fits, name, f"a finite number {sign} 0", value)


@dataclass(frozen=True, eq=False)
class History:
    """Training history; row k - 1 is the k-th epoch.

    Attributes:
      train_loss: mean cross-entropy of each scale, (epochs, n_scales); one "scale" for TSN.
      validation_accuracy: of the multi-scale model, (epochs,); NaN without validation.
      validation_loss: its cross-entropy, (epochs,).
      validation_scale_accuracy: of each head alone on the sequences long enough for it,
        (epochs, n_scales).
      best_epoch: the epoch whose parameters were kept, counted from 1.
      interrupted: whether the run was stopped from the keyboard.
    """

    train_loss: np.ndarray
    validation_accuracy: np.ndarray
    validation_loss: np.ndarray
    validation_scale_accuracy: np.ndarray
    best_epoch: int
    interrupted: bool = False

    @property
    def n_epochs(self) -> int:
        """Number of finished epochs."""
        return self.train_loss.shape[0]

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers; NaN, which JSON lacks, becomes None."""
        plain = dict(vars(self))
        for name in _CURVES:
            values = plain[name].astype(object)
            values[np.isnan(plain[name])] = None
            plain[name] = values.tolist()
        return plain

    @classmethod
    def from_json(cls, fields: JSONObject) -> History:
        """The inverse of `to_json`."""
        curves = {name: np.array(fields[name], dtype=np.float64) for name in _CURVES}
        return cls(**(fields | curves))


_CURVES = ("train_loss", "validation_accuracy", "validation_loss", "validation_scale_accuracy")


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A model on features with its prior and class names.

    Attributes:
      heads: the model on raw features.
      prior: class scores of the empty subsequence, (C,) float64; the relative frequency of each
        class in the training set. A class that never occurred may have prior 0.
      class_names: C names.
      history: training history; None for a model trained elsewhere.
      config: settings of training; None for a model trained elsewhere.
    """

    heads: HeadStack | TsnHead
    prior: np.ndarray
    class_names: tuple[str, ...]
    history: History | None = None
    config: TrainConfig | None = None

    def __post_init__(self) -> None:
        """Refuse a prior or names of another number of classes."""
        n_classes = self.heads.n_classes
        letters = f"(C,) = ({n_classes},)"
        checks.expect_shape("prior", self.prior, (n_classes,), letters)
        checks.expect_finite("prior", self.prior)
        got = len(self.class_names)
        checks.expect(got == n_classes, "class_names", f"{n_classes} names", got)


def save_model(path: PathLike, model: TrainedModel) -> Path:
    """Write a model to one file, e.g. "model.safetensors", and return its path.

    The folder is made if absent; an existing file is replaced atomically.

    Raises:
      ValueError, OSError: a path that cannot be written to.
    """
    kind = _KINDS[0] if isinstance(model.heads, HeadStack) else _KINDS[1]
    header = {"kind": kind, **header_of(model)}
    return _FORMAT.write(path, _tensors(model), header, model_digest(model))


def load_model(path: PathLike) -> TrainedModel:
    """Read a model written by `save_model`; runs no code of the file.

    Weights in double precision come back in double precision in JAX's x64 mode only.

    Raises:
      FileNotFoundError: no such file. ValueError: a damaged or foreign file.
    """
    return _FORMAT.read(path, _model)


def model_digest(model: TrainedModel) -> str:
    """SHA-256 of weights and prior (names, dtypes, shapes, bytes): 64 hexadecimal digits."""
    return digest_of(_tensors(model))


def header_of(model: TrainedModel) -> dict[str, Any]:
    """Everything but the arrays, as JSON; the inverse is `from_header`."""
    return {
        "n_max": model.heads.n_max if isinstance(model.heads, HeadStack) else None,
        "input_relu": model.heads.input_relu,
        "class_names": list(model.class_names),
        "config": None if model.config is None else asdict(model.config),
        "history": None if model.history is None else model.history.to_json(),
    }


def from_header(header: JSONObject, heads: HeadStack | TsnHead, prior: np.ndarray) -> TrainedModel:
    """The model from its header and arrays."""
    settings, history = header["config"], header["history"]
    if settings is not None:  # a file of another version may name more settings or fewer
        known = {field.name for field in fields(TrainConfig)}
        settings = {name: value for name, value in settings.items() if name in known}
    return TrainedModel(
        heads=heads,
        prior=prior,
        class_names=tuple(header["class_names"]),
        history=None if history is None else History.from_json(history),
        config=None if settings is None else TrainConfig(**settings),
    )


def _tensors(model: TrainedModel) -> dict[str, np.ndarray]:
    """The arrays of a model by their names in the file."""
    return tensors_of(model.heads) | {"prior": np.array(model.prior, np.float64)}


def _model(header: JSONObject, tensors: Tensors) -> tuple[TrainedModel, str]:
    """The model that header and arrays describe, and the digest of the arrays."""
    arrays = {name: jnp.asarray(array) for name, array in tensors.items() if name != "prior"}
    heads: HeadStack | TsnHead
    if header["kind"] == _KINDS[1]:
        heads = TsnHead(arrays["w"], arrays["b"], header["input_relu"])
    else:
        heads = stack_of(head_arrays(arrays), header["input_relu"])
    return from_header(header, heads, tensors["prior"]), digest_of(tensors)
