"""Trained models: parameters, class prior and training history."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from esv_jax import checks
from esv_jax.models.config import TrainConfig
from esv_jax.models.heads import HeadStack, TsnHead


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
        """Epochs that were finished."""
        return self.train_loss.shape[0]

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers; NaN becomes None, which JSON can say."""
        fields = {
            name: value.astype(object) if isinstance(value, np.ndarray) else value
            for name, value in vars(self).items()
        }
        for name, value in fields.items():
            if isinstance(value, np.ndarray):
                value[np.isnan(value.astype(np.float64))] = None
                fields[name] = value.tolist()
        return fields

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> History:
        """The inverse of `to_json`."""
        arrays: dict[str, Any] = {
            name: np.array(value, dtype=np.float64) if isinstance(value, list) else value
            for name, value in fields.items()
        }
        return cls(**arrays)


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A model with all that explaining it needs.

    Attributes:
      heads: the model on raw features.
      prior: class scores of the empty subsequence, (C,) float64; the relative frequency of each
        class in the training set. A class that never occurred may have prior 0.
      class_names: C names.
      history: how training went; None for a model trained elsewhere.
      config: the settings of training; None for a model trained elsewhere.
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
