"""The loop over epochs that every trainable head shares.

A head is a Linen module that says which subsequence sizes it learns from (`sizes`), what it
predicts for padded subsequences `(n_scales, B, p, D)`, and how to write itself down as a plain
record (`fold`). An epoch is one compiled scan over steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from esv_jax import checks, extras
from esv_jax.models.checkpointing import TrainingCheckpoints
from esv_jax.models.config import TrainConfig
from esv_jax.models.evaluation import Evaluation, draw_subsequences, evaluate_examples
from esv_jax.models.examples import Examples, examples_digest, feature_moments

Callback = Callable[[int, Mapping[str, float]], None]


class Keys(NamedTuple):
    """The keys of a run, one for each purpose."""

    split: jax.Array
    init: jax.Array
    epochs: jax.Array
    validation: jax.Array


def make_keys(config: TrainConfig) -> Keys:
    """The keys that `config.seed` stands for."""
    return Keys(*jax.random.split(jax.random.key(config.seed), len(Keys._fields)))


class Learned(NamedTuple):
    """State that a training step changes: parameters, running moments, optimiser state."""

    params: Any
    batch_stats: Any
    optimiser: Any


class Run(NamedTuple):
    """A whole training run after some epoch: all that resuming needs.

    `curves` has a row per epoch of the plan, NaN where it is still to come: validation accuracy,
    validation loss, then training loss and validation accuracy of each scale.
    """

    learned: Learned
    best: Any  # variables of the best epoch
    curves: np.ndarray  # (max_epochs, 2 + 2 * n_scales)
    epoch: np.ndarray  # () epochs finished
    best_epoch: np.ndarray  # ()


def standardisation(
    train: Examples, config: TrainConfig
) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
    """Mean and standard deviation (D,) to train with, or two Nones for features as they are."""
    if not config.standardise or config.input_relu:
        return None, None
    return feature_moments(train)


def run_epochs(
    module: Any,
    train: Examples,
    held: Examples | None,
    config: TrainConfig,
    checkpoints: TrainingCheckpoints,
    progress: bool,
    callback: Callback | None,
) -> tuple[Run, bool]:
    """Train until the plan is done, patience is lost, or Ctrl-C.

    Args:
      module: the head, with `sizes` and `fold`.
      train: what to train on.
      held: what to choose the best epoch by; None keeps the last.
      config: settings.
      checkpoints: where states are saved and found.
      progress: show a progress bar.
      callback: called after each epoch.
    Returns:
      The run as it ended, and whether it was interrupted after at least one epoch.
    """
    keys = make_keys(config)
    mean, std = standardisation(train, config)
    standardised = train
    if mean is not None and std is not None:
        there = np.arange(train.features.shape[1]) < train.lengths[:, None]
        scaled = (train.features - mean[None, None]) / std[None, None]
        standardised = train._replace(features=np.where(there[..., None], scaled, 0))
    settings = {
        "model": type(module).__name__,
        **asdict(config),
        "n_classes": module.n_classes,
        "training data": examples_digest(train),
        "validation data": examples_digest(held),
    }
    data: Examples = jax.device_put(standardised)
    held = jax.device_put(held)
    program = _program(config)
    run = _start(module, program, data, key=keys.init)
    bar = extras.require("tqdm", "cli").tqdm if progress else None
    interrupted = False
    with checkpoints.open(settings) as saved:
        run = saved.restore(run)
        bar = bar(total=config.max_epochs, initial=int(run.epoch), unit="epoch") if bar else None
        try:
            while not _finished(run, config, held):
                epoch = int(run.epoch)
                epoch_key = jax.random.fold_in(keys.epochs, epoch)
                learned, losses = _epoch(module, program, run.learned, data, key=epoch_key)
                variables = {"params": learned.params, "batch_stats": learned.batch_stats}
                scores = None
                if held is not None:
                    draws = config.validation_subsequences
                    scores = _validate(module, draws, variables, mean, std, held, keys.validation)
                # Waited for here: NumPy turns a Ctrl-C in its own conversions into ValueError.
                losses, scores = jax.device_get((losses, scores))
                run = _after_epoch(run, learned, variables, losses, scores)
                saved.save(run, epoch + 1)
                metrics = _metrics(run)
                if bar is not None:
                    bar.set_postfix({name: f"{value:.3f}" for name, value in metrics.items()})
                    bar.update()
                if callback is not None:
                    callback(epoch + 1, metrics)
        except KeyboardInterrupt:
            if run.epoch == 0:
                raise
            interrupted = True
        finally:
            if bar is not None:
                bar.close()
        saved.save(run, int(run.epoch), last=True)
    return run, interrupted


def _program(config: TrainConfig) -> TrainConfig:
    """The settings that an epoch is compiled for; the others are defaults, to compile less often.

    Runs that differ in their seed, say, or in how they end, share one program.
    """
    return TrainConfig(
        n_max=config.n_max,
        batch_size=config.batch_size,
        max_epochs=config.max_epochs,
        learning_rate=config.learning_rate,
        warmup_fraction=config.warmup_fraction,
        weight_decay=config.weight_decay,
    )


def _optimiser(config: TrainConfig, n_examples: int) -> optax.GradientTransformation:
    n_steps = config.max_epochs * -(-n_examples // config.batch_size)
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.learning_rate,
        warmup_steps=round(config.warmup_fraction * n_steps),
        decay_steps=n_steps,
    )

    def is_weight(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key[0] == "w", params)

    return optax.adamw(schedule, weight_decay=config.weight_decay, mask=is_weight)


def _start(module: Any, config: TrainConfig, data: Examples, *, key: jax.Array) -> Run:
    """The run before its first epoch."""
    n_scales = module.sizes(jnp.asarray(1)).shape[0]
    shape = (n_scales, 1, config.n_max)
    elements = jnp.zeros((*shape, data.features.shape[2]), data.features.dtype)
    variables = _init(module, key, elements, jnp.ones(shape, bool))
    variables = {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}
    memory = _optimiser(config, len(data.labels)).init(variables["params"])
    return Run(
        learned=Learned(**variables, optimiser=memory),
        best=variables,
        curves=np.full((config.max_epochs, 2 + 2 * n_scales), np.nan),
        epoch=np.array(0),
        best_epoch=np.array(0),
    )


@partial(jax.jit, static_argnums=0)
def _init(module: Any, key: jax.Array, elements: jax.Array, mask: jax.Array) -> Any:
    return module.init(key, elements, mask)


@partial(jax.jit, static_argnums=(0, 1))
def _validate(
    module: Any,
    n_subsequences: int,
    variables: Any,
    mean: Any,
    std: Any,
    held: Examples,
    key: jax.Array,
) -> Evaluation:
    """Evaluate the heads, as they would be saved now, on raw features."""
    heads = module.fold(variables, mean, std)
    return evaluate_examples(heads, held, n_subsequences, key=key)


@partial(jax.jit, static_argnums=(0, 1))
def _epoch(
    module: Any, config: TrainConfig, learned: Learned, data: Examples, *, key: jax.Array
) -> tuple[Learned, jax.Array]:
    """One pass over the examples in random order: what was learned, mean losses (n_scales,)."""
    m, n = data.features.shape[:2]
    batch_size = min(config.batch_size, m)
    n_steps = -(-m // config.batch_size)
    optimiser = _optimiser(config, m)
    order_key, steps_key = jax.random.split(key)
    order = jax.random.permutation(order_key, m)
    order = jnp.pad(order, (0, n_steps * batch_size - m), constant_values=m)  # m: nobody
    rows = order.reshape(n_steps, batch_size)

    def draw(row: jax.Array, draw_key: jax.Array) -> tuple[jax.Array, jax.Array]:
        example = jnp.minimum(row, m - 1)
        length = jnp.where(row < m, data.lengths[example], 0)
        sizes = module.sizes(length)
        positions, mask = draw_subsequences(sizes, length, config.n_max, n, key=draw_key)
        return data.features[example][positions], mask

    def step(learned: Learned, inputs: tuple[jax.Array, jax.Array]) -> tuple[Learned, Any]:
        row, step_key = inputs
        draws_key, dropout_key = jax.random.split(step_key)
        draw_keys = jax.random.split(draws_key, batch_size)
        # (n_scales, B, n_max, D), (n_scales, B, n_max)
        elements, mask = jax.vmap(draw, out_axes=1)(row, draw_keys)
        labels = data.labels[jnp.minimum(row, m - 1)]
        there = mask.any(axis=-1)  # (n_scales, B)

        def loss(params: Any) -> tuple[jax.Array, Any]:
            logits, changed = module.apply(
                {"params": params, "batch_stats": learned.batch_stats},
                elements,
                mask,
                train=True,
                rngs={"dropout": dropout_key},
                mutable=["batch_stats"],
            )
            wanted = jnp.broadcast_to(labels[None], there.shape)
            entropy = optax.softmax_cross_entropy_with_integer_labels(logits, wanted)
            entropy = jnp.where(there, entropy, 0).sum(axis=1)
            counts = there.sum(axis=1).astype(entropy.dtype)
            total = (entropy / jnp.maximum(counts, 1)).sum()
            return total, (changed.get("batch_stats", {}), entropy, counts)

        gradient, (batch_stats, entropy, counts) = jax.grad(loss, has_aux=True)(learned.params)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes its step count with floats
            updates, memory = optimiser.update(gradient, learned.optimiser, learned.params)
        params = optax.apply_updates(learned.params, updates)
        return Learned(params, batch_stats, memory), (entropy, counts)

    learned, (entropy, counts) = jax.lax.scan(
        step, learned, (rows, jax.random.split(steps_key, n_steps))
    )
    return learned, entropy.sum(axis=0) / counts.sum(axis=0)


def _after_epoch(run: Run, learned: Learned, variables: Any, losses: Any, scores: Any) -> Run:
    """The run with one more epoch in it; the best parameters change where it did better."""
    curves = run.curves.copy()
    epoch = int(run.epoch)
    n_scales = len(losses)
    checks.expect(
        bool(np.isfinite(losses).all()),
        "learning_rate",
        "a rate at which training converges",
        f"a mean loss of {losses.mean()} in epoch {epoch + 1}",
        "Lower it.",
    )
    curves[epoch, 2 : 2 + n_scales] = losses
    better = True
    if scores is not None:
        curves[epoch, :2] = scores.accuracy, scores.loss
        curves[epoch, 2 + n_scales :] = scores.scale_accuracy
        if run.best_epoch > 0:
            best_accuracy, best_loss = curves[int(run.best_epoch) - 1, :2]
            accuracy, loss = curves[epoch, :2]
            better = (accuracy, -loss) > (best_accuracy, -best_loss)
    return Run(
        learned=learned,
        best=variables if better else run.best,
        curves=curves,
        epoch=np.array(epoch + 1),
        best_epoch=np.array(epoch + 1) if better else run.best_epoch,
    )


def _finished(run: Run, config: TrainConfig, held: Examples | None) -> bool:
    waited = int(run.epoch - run.best_epoch)
    return int(run.epoch) >= config.max_epochs or (held is not None and waited >= config.patience)


def _metrics(run: Run) -> dict[str, float]:
    row = run.curves[int(run.epoch) - 1]
    n_scales = (len(row) - 2) // 2
    return {
        "train_loss": float(row[2 : 2 + n_scales].mean()),
        "validation_accuracy": float(row[0]),
        "validation_loss": float(row[1]),
    }
