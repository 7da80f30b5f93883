"""Training the heads of all scales at once, or an average-consensus head, on labelled sequences.

In each step every sequence of the batch gives one random ordered subsequence per scale. Each
scale has its own cross-entropy, and since no parameter is shared between scales, their sum trains
all heads side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np

from esv_jax import checks
from esv_jax.models.checkpointing import TrainingCheckpoints
from esv_jax.models.config import TrainConfig
from esv_jax.models.examples import Examples, class_prior, hold_out, pad_examples
from esv_jax.models.loop import Callback, Run, make_keys, run_epochs, standardisation
from esv_jax.models.trainable import MultiScaleHeads, Tsn
from esv_jax.models.trained import History, TrainedModel

Labelled = tuple[Sequence[Any], Any]


def train_heads(
    sequences: Sequence[Any],
    labels: Any,
    n_classes: int,
    config: TrainConfig | None = None,
    *,
    class_names: Sequence[str] | None = None,
    validation: Labelled | None = None,
    checkpoint_dir: str | PathLike[str] | None = None,
    checkpoint_every: int = 1,
    progress: bool = False,
    callback: Callback | None = None,
) -> TrainedModel:
    """Train a head for every scale 1..n_max.

    The parameters kept are those of the epoch with the highest validation accuracy of the
    multi-scale model, at equal accuracy the lowest cross-entropy. Same data, same `config`: the
    same result on one backend, whether or not the run was stopped and resumed.

    Ctrl-C: once an epoch is done, the best model so far is returned with
    `history.interrupted` set (with `checkpoint_dir` the state is saved first, and calling again
    continues); before that the `KeyboardInterrupt` goes on to the caller.

    Args:
      sequences: m arrays (n_i, D), the elements of each in temporal order. A sequence trains
        the scales up to its length.
      labels: (m,) ints in 0..n_classes - 1.
      n_classes: classes C.
      config: settings; the defaults of `TrainConfig` if None.
      class_names: C names; "0", "1", ... if None.
      validation: (sequences, labels) to choose the best epoch by. If None, a share of each
        class is held out of `sequences`.
      checkpoint_dir: folder for the training state. A run found there is continued, if its
        settings and data are the same.
      checkpoint_every: epochs between saved states.
      progress: show a progress bar.
      callback: called after each epoch with the number of epochs finished and the metrics
        "train_loss", "validation_accuracy" and "validation_loss".
    Returns:
      The model on raw features, with the prior from `labels` (held-out ones included).
    """
    config = config or TrainConfig()
    names = _names(class_names, n_classes)
    train, held = _examples(sequences, labels, n_classes, config, validation)
    longest = int(train.lengths.max())
    checks.expect(
        config.n_max <= longest,
        "n_max",
        f"at most {longest}, the longest training sequence",
        config.n_max,
        "The heads of larger scales would have nothing to learn from.",
    )
    module = MultiScaleHeads(
        n_max=config.n_max,
        hidden_dim=config.hidden_dim,
        n_classes=n_classes,
        n_hidden_layers=config.n_hidden_layers,
        input_relu=config.input_relu,
        dropout=config.dropout,
        batch_norm=config.batch_norm,
    )
    checkpoints = TrainingCheckpoints(checkpoint_dir, checkpoint_every)
    run, interrupted = run_epochs(module, train, held, config, checkpoints, progress, callback)
    return _trained(module, run, interrupted, train, config, names, labels)


def train_tsn(
    sequences: Sequence[Any],
    labels: Any,
    n_classes: int,
    config: TrainConfig | None = None,
    *,
    class_names: Sequence[str] | None = None,
    validation: Labelled | None = None,
    checkpoint_dir: str | PathLike[str] | None = None,
    checkpoint_every: int = 1,
    progress: bool = False,
    callback: Callback | None = None,
) -> TrainedModel:
    """Train an average-consensus head, in each step on `n_max` random elements per sequence.

    Everything else is as for `train_heads`; the validation accuracy is that of whole sequences.
    """
    config = config or TrainConfig()
    names = _names(class_names, n_classes)
    train, held = _examples(sequences, labels, n_classes, config, validation)
    module = Tsn(
        n_classes=n_classes,
        n_max=config.n_max,
        input_relu=config.input_relu,
        dropout=config.dropout,
    )
    checkpoints = TrainingCheckpoints(checkpoint_dir, checkpoint_every)
    run, interrupted = run_epochs(module, train, held, config, checkpoints, progress, callback)
    return _trained(module, run, interrupted, train, config, names, labels)


def _names(class_names: Sequence[str] | None, n_classes: int) -> tuple[str, ...]:
    checks.expect_int("n_classes", n_classes, minimum=2)
    names = tuple(map(str, range(n_classes) if class_names is None else class_names))
    checks.expect(len(names) == n_classes, "class_names", f"{n_classes} names", len(names))
    return names


def _examples(
    sequences: Any, labels: Any, n_classes: int, config: TrainConfig, validation: Labelled | None
) -> tuple[Examples, Examples | None]:
    """Checked examples to train on and to validate with."""
    examples = pad_examples(sequences, labels, n_classes)
    if validation is None:
        return hold_out(examples, config.validation_fraction, key=make_keys(config).split)
    held = pad_examples(*validation, n_classes, name="validation")
    width = examples.features.shape[2]
    got = held.features.shape[2]
    checks.expect(got == width, "validation", f"feature width D = {width}", got)
    return examples, held


def _trained(
    module: Any,
    run: Run,
    interrupted: bool,
    train: Examples,
    config: TrainConfig,
    class_names: tuple[str, ...],
    labels: Any,
) -> TrainedModel:
    """The record of a finished run, its parameters folded to take raw features."""
    curves = run.curves[: int(run.epoch)]
    n_scales = (curves.shape[1] - 2) // 2
    return TrainedModel(
        heads=module.fold(run.best, *standardisation(train, config)),
        prior=class_prior(np.asarray(labels), module.n_classes, config.prior_smoothing),
        class_names=class_names,
        history=History(
            train_loss=curves[:, 2 : 2 + n_scales],
            validation_accuracy=curves[:, 0],
            validation_loss=curves[:, 1],
            validation_scale_accuracy=curves[:, 2 + n_scales :],
            best_epoch=int(run.best_epoch),
            interrupted=interrupted,
        ),
        config=config,
    )
