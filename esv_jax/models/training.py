"""Training of the heads of all scales at once, or of an average-consensus head.

In each step every sequence of the batch contributes one random ordered subsequence per scale. Each
scale has its own cross-entropy. Scales share no parameter, so the sum of these losses trains all
heads side by side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from os import PathLike
from typing import TypeAlias, TypedDict, Unpack

import jax
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from esv_jax import checks
from esv_jax.checks import message
from esv_jax.models.checkpointing import open_states
from esv_jax.models.evaluation import Examples, pad_examples
from esv_jax.models.loop import Callback, run_epochs
from esv_jax.models.trainable import MultiScaleHeads, TrainableHeads, Tsn
from esv_jax.models.trained import History, TrainConfig, TrainedModel

Labelled: TypeAlias = tuple[Sequence[ArrayLike], ArrayLike]
"""Sequences and their labels."""

_SHARE = 0.1  # of each class, held out by default


class Options(TypedDict, total=False):
    """Keyword arguments of `train_heads` and `train_tsn`, described there."""

    class_names: Sequence[str] | None
    validation: Labelled | None
    checkpoint_dir: str | PathLike[str] | None
    checkpoint_every: int
    progress: bool
    callback: Callback | None


def train_heads(
    sequences: Sequence[ArrayLike],
    labels: ArrayLike,
    n_classes: int,
    config: TrainConfig | None = None,
    **options: Unpack[Options],
) -> TrainedModel:
    """Train a head for every scale 1..n_max.

    The parameters kept are those of the epoch with the highest validation accuracy of the
    multi-scale model, at equal accuracy the lowest cross-entropy. Same data, same `config`: the
    same result on one backend, whether or not the run was stopped and resumed.

    Ctrl-C: after the first epoch, the best model so far is returned with
    `history.interrupted` set (with `checkpoint_dir` the state is saved first, and calling again
    continues); before that the `KeyboardInterrupt` propagates.

    Args:
      sequences: m arrays (n_i, D), the elements of each in temporal order. A sequence trains
        the scales up to its length.
      labels: (m,) ints in 0..n_classes - 1.
      n_classes: classes C.
      config: settings; the defaults of `TrainConfig` if None.
      class_names: C names; default "0", "1", ...
      validation: (sequences, labels) to choose the best epoch by; default a share of each
        class, held out of `sequences`.
      checkpoint_dir: folder for the training state; default none. A run found there is
        continued, if its settings and data are the same.
      checkpoint_every: epochs between saved states; default 1.
      progress: show a progress bar; default False.
      callback: called after each epoch with the number of finished epochs and the metrics
        "train_loss", "validation_accuracy" and "validation_loss".
    Returns:
      The model on raw features, with the prior from `labels` (held-out ones included).
    """
    config = config or TrainConfig()
    module = MultiScaleHeads(
        n_max=config.n_max,
        hidden_dim=config.hidden_dim,
        n_classes=n_classes,
        n_hidden_layers=config.n_hidden_layers,
        input_relu=config.input_relu,
        dropout=config.dropout,
        batch_norm=config.batch_norm,
    )
    return _train(module, (sequences, labels), config, **options)


def train_tsn(
    sequences: Sequence[ArrayLike],
    labels: ArrayLike,
    n_classes: int,
    config: TrainConfig | None = None,
    **options: Unpack[Options],
) -> TrainedModel:
    """Train an average-consensus head, in each step on `n_max` random elements per sequence.

    Everything else is as for `train_heads`; the validation accuracy is that of whole sequences.
    """
    config = config or TrainConfig()
    module = Tsn(n_classes, config.n_max, config.input_relu, config.dropout)
    return _train(module, (sequences, labels), config, **options)


def _train(
    module: TrainableHeads,
    data: Labelled,
    config: TrainConfig,
    class_names: Sequence[str] | None = None,
    validation: Labelled | None = None,
    checkpoint_dir: str | PathLike[str] | None = None,
    checkpoint_every: int = 1,
    progress: bool = False,
    callback: Callback | None = None,
) -> TrainedModel:
    """Check the data, train `module`, and return it as a model on raw features."""
    n_classes = checks.expect_int("n_classes", module.n_classes, minimum=2)
    names = tuple(map(str, range(n_classes) if class_names is None else class_names))
    checks.expect(len(names) == n_classes, "class_names", f"{n_classes} names", len(names))
    split_key, *keys = jax.random.split(jax.random.key(config.seed), 4)
    train, held = pad_examples(*data, n_classes), None
    if validation is None:
        train, held = hold_out(train, config.validation_fraction, key=split_key)
    else:
        held = pad_examples(*validation, n_classes, name="validation")
        width, got = train.features.shape[2], held.features.shape[2]
        checks.expect(got == width, "validation", f"feature width D = {width}", got)
    longest = int(train.lengths.max())
    if isinstance(module, MultiScaleHeads) and config.n_max > longest:
        expected = f"at most {longest}, the longest training sequence"
        way_out = "Larger scales have no sequence to train on."
        raise ValueError(message("n_max", expected, config.n_max, way_out))
    settings = {
        "model": type(module).__name__,
        **asdict(config),
        "n_classes": n_classes,
        "training data": _digest(train),
        "validation data": _digest(held),
    }
    moments: tuple[np.ndarray | None, np.ndarray | None] = (None, None)
    if config.standardise and not config.input_relu:
        mean, std = moments = feature_moments(train)
        scaled = (train.features - mean[None, None]) / std[None, None]
        train = train._replace(features=np.where(_is_element(train)[..., None], scaled, 0))
    with open_states(checkpoint_dir, checkpoint_every, settings) as saved:
        run, interrupted = run_epochs(
            module, train, held, moments, config, keys, saved, progress, callback
        )
    curves = run.curves[: int(run.epoch)]
    n_scales = (curves.shape[1] - 2) // 2
    history = History(
        train_loss=curves[:, 2 : 2 + n_scales],
        validation_accuracy=curves[:, 0],
        validation_loss=curves[:, 1],
        validation_scale_accuracy=curves[:, 2 + n_scales :],
        best_epoch=int(run.best_epoch),
        interrupted=interrupted,
    )
    prior = class_prior(np.asarray(data[1]), n_classes, config.prior_smoothing)
    return TrainedModel(module.fold(run.best, *moments), prior, names, history, config)


# Examples


def hold_out(
    examples: Examples, fraction: float | None, *, key: Array
) -> tuple[Examples, Examples | None]:
    """Split off a share of each class, drawn by `key`; each class keeps at least one.

    Args:
      fraction: of each class, rounded to whole examples; None for a tenth, but at least one of each
        class that has two.
    Returns:
      The rest, and the held-out examples: None for `fraction` 0, or if by default no class has two.
    Raises:
      ValueError: a fraction that holds out nothing.
    """
    share, least = (_SHARE, 1) if fraction is None else (fraction, 0)
    order = np.asarray(jax.random.permutation(key, len(examples.labels)))
    held = np.zeros(len(order), dtype=bool)
    for c in np.unique(examples.labels):
        members = order[examples.labels[order] == c]
        n = max(round(share * len(members)), least)
        held[members[: min(n, len(members) - 1)]] = True
    if held.any():
        rest, taken = (Examples(*(array[rows] for array in examples)) for rows in (~held, held))
        return rest, taken
    if fraction:
        expected = "a share that holds out at least one example"
        way_out = "Leave it out, give a validation set, a larger fraction, or 0."
        got = f"{fraction} of {len(order)} examples"
        raise ValueError(message("validation_fraction", expected, got, way_out))
    return examples, None


def class_prior(labels: np.ndarray, n_classes: int, smoothing: float = 0.0) -> np.ndarray:
    """Relative frequency of each class, (C,) float64: `(count + a) / (m + a * C)`."""
    counts = np.bincount(labels, minlength=n_classes) + float(smoothing)
    return counts / counts.sum()


def feature_moments(examples: Examples) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each feature over all elements, (D,) float32 each.

    The standard deviation of a constant feature is replaced by 1.
    """
    elements = examples.features[_is_element(examples)].astype(np.float64)  # (all elements, D)
    std = elements.std(axis=0)
    return elements.mean(axis=0).astype(np.float32), np.where(std > 0, std, 1).astype(np.float32)


def _is_element(examples: Examples) -> np.ndarray:
    """False for padding, (m, n)."""
    return np.arange(examples.features.shape[1]) < examples.lengths[:, None]


def _digest(examples: Examples | None) -> str:
    """SHA-256 of the examples, by which a resumed run recognises its data."""
    digest = hashlib.sha256()
    for array in examples or ():
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
