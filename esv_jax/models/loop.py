"""The training loop over epochs, common to all trainable heads.

An epoch is one compiled scan over steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from esv_jax import extras
from esv_jax.checks import message
from esv_jax.models.checkpointing import SavedStates
from esv_jax.models.evaluation import Evaluation, Examples, draw_subsequences, evaluate_examples
from esv_jax.models.tensor_files import Variables
from esv_jax.models.trainable import TrainableHeads
from esv_jax.models.trained import TrainConfig

Callback: TypeAlias = Callable[[int, Mapping[str, float]], None]
"""Function of the number of finished epochs and the metrics of the last."""

_COMPILED = (
    "n_max",
    "batch_size",
    "max_epochs",
    "learning_rate",
    "warmup_fraction",
    "weight_decay",
)


class Learned(NamedTuple):
    """State that a training step changes: parameters, running moments, optimiser state."""

    params: Variables
    batch_stats: Variables
    optimiser: optax.OptState

    @property
    def variables(self) -> Variables:
        """The variables of the module."""
        return {"params": self.params, "batch_stats": self.batch_stats}


class Run(NamedTuple):
    """The state of a training run after some epoch, complete enough to resume.

    `curves` has a row per epoch of the plan, NaN for those to come: validation accuracy,
    validation loss, then training loss and validation accuracy of each scale.
    """

    learned: Learned
    best: Variables  # of the best epoch
    curves: np.ndarray  # (max_epochs, 2 + 2 * n_scales)
    epoch: np.ndarray  # () number of finished epochs
    best_epoch: np.ndarray  # ()


def run_epochs(
    module: TrainableHeads,
    train: Examples,
    held: Examples | None,
    moments: tuple[np.ndarray | None, np.ndarray | None],
    config: TrainConfig,
    keys: Sequence[Array],
    saved: SavedStates,
    progress: bool,
    callback: Callback | None,
) -> tuple[Run, bool]:
    """Train until the last epoch, until patience runs out, or until Ctrl-C.

    Args:
      train: standardised examples to train on.
      held: raw examples to choose the best epoch by; None keeps the last epoch.
      moments: mean and standard deviation (D,) used for `train`, or None twice.
      keys: of the initial weights, of the epochs, and of validation.
    Returns:
      The run as it ended, and whether it was interrupted after at least one epoch.
    """
    init_key, epochs_key, validation_key = keys
    # Runs that differ in other settings, e.g. the seed, share compiled programs.
    program = TrainConfig(**{name: getattr(config, name) for name in _COMPILED})
    data, held = jax.device_put((train, held))
    run = saved.restore(_start(module, program, data, key=init_key))
    bar = None
    if progress:
        tqdm = extras.require("tqdm", "cli").tqdm
        bar = tqdm(total=config.max_epochs, initial=int(run.epoch), unit="epoch")
    interrupted = False
    try:
        while not _is_finished(run, config, held):
            epoch = int(run.epoch)
            epoch_key = jax.random.fold_in(epochs_key, epoch)
            learned, losses = _epoch(module, program, run.learned, data, key=epoch_key)
            scores = None
            if held is not None:
                draws = config.validation_subsequences
                variables = learned.variables
                scores = _validate(module, draws, variables, *moments, held, validation_key)
            # Waited for here: NumPy turns a Ctrl-C in its own conversions into ValueError.
            losses, scores = jax.device_get((losses, scores))
            run = _after_epoch(run, learned, losses, scores)
            saved.save(run, epoch + 1)
            row = run.curves[epoch]
            metrics = {
                "train_loss": float(row[2 : 2 + len(losses)].mean()),
                "validation_accuracy": float(row[0]),
                "validation_loss": float(row[1]),
            }
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


def _optimiser(config: TrainConfig, n_examples: int) -> optax.GradientTransformation:
    n_steps = config.max_epochs * -(-n_examples // config.batch_size)
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.learning_rate,
        warmup_steps=round(config.warmup_fraction * n_steps),
        decay_steps=n_steps,
    )

    def is_weight(params: Variables) -> Variables:
        return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key[0] == "w", params)

    return optax.adamw(schedule, weight_decay=config.weight_decay, mask=is_weight)


def _start(module: TrainableHeads, config: TrainConfig, data: Examples, *, key: Array) -> Run:
    """The run before its first epoch."""
    n_scales = module.sizes(jnp.asarray(1)).shape[0]
    shape = (n_scales, 1, config.n_max)
    elements = jnp.zeros((*shape, data.features.shape[2]), data.features.dtype)
    variables = _init(module, key, elements, jnp.ones(shape, bool))
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    memory = _optimiser(config, len(data.labels)).init(params)
    learned = Learned(params, batch_stats, memory)
    curves = np.full((config.max_epochs, 2 + 2 * n_scales), np.nan)
    return Run(learned, learned.variables, curves, epoch=np.array(0), best_epoch=np.array(0))


@partial(jax.jit, static_argnums=0)
def _init(module: TrainableHeads, key: Array, elements: Array, mask: Array) -> Variables:
    return module.init(key, elements, mask)


@partial(jax.jit, static_argnums=(0, 1))
def _validate(
    module: TrainableHeads,
    n_subsequences: int,
    variables: Variables,
    mean: Array | None,
    std: Array | None,
    held: Examples,
    key: Array,
) -> Evaluation:
    """Evaluate the heads on raw features, in the form in which they would be saved."""
    heads = module.fold(variables, mean, std)
    return evaluate_examples(heads, held, n_subsequences, key=key)


@partial(jax.jit, static_argnums=(0, 1))
def _epoch(
    module: TrainableHeads, config: TrainConfig, learned: Learned, data: Examples, *, key: Array
) -> tuple[Learned, Array]:
    """One pass over the examples in random order: the new state, and mean losses (n_scales,)."""
    m, n = data.features.shape[:2]
    batch_size = min(config.batch_size, m)
    n_steps = -(-m // config.batch_size)
    optimiser = _optimiser(config, m)
    order_key, steps_key = jax.random.split(key)
    order = jax.random.permutation(order_key, m)
    order = jnp.pad(order, (0, n_steps * batch_size - m), constant_values=m)  # m: no example
    rows = order.reshape(n_steps, batch_size)

    def draw(row: Array, draw_key: Array) -> tuple[Array, Array]:
        example = jnp.minimum(row, m - 1)
        length = jnp.where(row < m, data.lengths[example], 0)
        sizes = module.sizes(length)
        positions, mask = draw_subsequences(sizes, length, config.n_max, n, key=draw_key)
        return data.features[example][positions], mask

    def step(learned: Learned, inputs: tuple[Array, Array]) -> tuple[Learned, tuple[Array, Array]]:
        row, step_key = inputs
        draws_key, dropout_key = jax.random.split(step_key)
        draw_keys = jax.random.split(draws_key, batch_size)
        # (n_scales, B, n_max, D), (n_scales, B, n_max)
        elements, mask = jax.vmap(draw, out_axes=1)(row, draw_keys)
        labels = data.labels[jnp.minimum(row, m - 1)]
        exists = mask.any(axis=-1)  # (n_scales, B)

        def loss(params: Variables) -> tuple[Array, tuple[Variables, Array, Array]]:
            logits, changed = module.apply(
                {"params": params, "batch_stats": learned.batch_stats},
                elements,
                mask,
                train=True,
                rngs={"dropout": dropout_key},
                mutable=["batch_stats"],
            )
            targets = jnp.broadcast_to(labels[None], exists.shape)
            entropy = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
            entropy = jnp.where(exists, entropy, 0).sum(axis=1)
            counts = exists.sum(axis=1).astype(entropy.dtype)
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


def _after_epoch(run: Run, learned: Learned, losses: np.ndarray, scores: Evaluation | None) -> Run:
    """The run with one more epoch; the best parameters change if it has the best scores."""
    if not np.isfinite(losses).all():
        expected = "a rate at which training converges"
        got = f"a mean loss of {losses.mean()} in epoch {int(run.epoch) + 1}"
        raise ValueError(message("learning_rate", expected, got, "Lower it."))
    curves, n_scales = run.curves.copy(), len(losses)
    row, epoch, better = curves[int(run.epoch)], np.array(run.epoch + 1), True
    row[2 : 2 + n_scales] = losses
    if scores is not None:
        row[:2], row[2 + n_scales :] = (scores.accuracy, scores.loss), scores.scale_accuracy
        best = curves[int(run.best_epoch) - 1]
        better = run.best_epoch == 0 or (row[0], -row[1]) > (best[0], -best[1])
    if not better:
        return run._replace(learned=learned, curves=curves, epoch=epoch)
    return Run(learned, learned.variables, curves, epoch=epoch, best_epoch=epoch)


def _is_finished(run: Run, config: TrainConfig, held: Examples | None) -> bool:
    waited = int(run.epoch - run.best_epoch)
    return int(run.epoch) >= config.max_epochs or (held is not None and waited >= config.patience)
