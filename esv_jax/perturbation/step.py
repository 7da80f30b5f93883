"""STEP: the smallest region of space and time that keeps, or destroys, a prediction."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from esv_jax.checks import (
    ScoresOf,
    expect,
    expect_choice,
    expect_classes,
    expect_finite,
    expect_floating,
    expect_int,
    expect_key,
    expect_numbers,
    is_concrete,
)
from esv_jax.metrics.voxels import scores_of_targets
from esv_jax.perturbation.descent import (
    Optimizer,
    State,
    Stopping,
    dampened_sgd,
    descend,
    started,
    updated,
)
from esv_jax.perturbation.objective import (
    MODES,
    ClipFunction,
    Energy,
    Masking,
    Mode,
    Objective,
    Weights,
    probabilities,
    ramped_weights,
    value_and_gradient,
)
from esv_jax.perturbation.pyramids import perturb, pyramid
from esv_jax.perturbation.questions import FORWARD_ONLY, clean_probabilities, expect_gradients
from esv_jax.perturbation.regularisers import Core
from esv_jax.records import register_record, static_field
from esv_jax.strided import split_strides

_CHUNK = 25  # iterations in one call, where somebody watches
_SCATTER = 0.01  # of masks at the start, where there is a key
_KEPT = 0.9  # share of its probability that counts as the prediction being kept
_GRID = 15  # values of a mask at which the prediction is asked for before the start
Progress = Callable[[int, Energy], None]
"""Called with the iterations done and the last energies (N, A)."""


@register_record
@dataclass(frozen=True)
class StepResult:
    """Masks of a clip, one per area; of N clips, with a leading axis N everywhere.

    Attributes:
      masks: (A, t, h, w) in 0..1, 1 where the clip is kept ("preserve") or taken ("delete").
      saliency: their sum, (t, h, w) in 0..A: places of the smaller areas are the highest.
      energy: reward and regularisers, (A, iterations), at the start of each iteration, with the
        weights that these have in the end, so that iterations can be compared; the last value is
        repeated once a mask has stopped. Not finite only where the first one is not.
      reward: the part of the prediction in it, (A, iterations).
      probability: of the target at the end, (A,): of what masks leave ("preserve", "dual"), or
        without what they take ("delete").
      clean_probability: of the target, for the clip as it is, ().
      small_masks: the numbers that were optimised, (A, t, h', w'), one per cell.
      stopped_at: iterations done when a mask stopped, (A,) int32; all of them if none did.
      failed_at: the iteration, from 0, at which the energy was not finite, (A,) int32, or -1. The
        masks are then those before it.
      areas: A shares of the volume. mode: "preserve", "delete" or "dual".
    """

    masks: Array
    saliency: Array
    energy: Array
    reward: Array
    probability: Array
    clean_probability: Array
    small_masks: Array
    stopped_at: Array
    failed_at: Array
    areas: tuple[float, ...] = static_field()
    mode: Mode = static_field()

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return warnings about these masks, as sentences."""
        failed = np.asarray(self.failed_at)
        places = np.argwhere(failed >= 0)
        return tuple(
            f"area {self.areas[place[-1]]}{f' of clip {place[0]}' if len(place) > 1 else ''}: the"
            f" energy was not finite at iteration {failed[tuple(place)]}; its mask is the last"
            " before that."
            for place in places
        )


def step(
    fn: ClipFunction,
    clip: Any,
    target: Any,
    *,
    areas: Sequence[float] = (0.05, 0.1, 0.2),
    mode: Mode = "preserve",
    iterations: int = 800,
    key: Array | None = None,
    core: Core | None = None,
    difference: bool = False,
    per_frame: bool = False,
    dropout: float = 0.3,
    padded: bool = False,
    masking: Masking | None = None,
    weights: Weights | None = None,
    optimizer: Optimizer | None = None,
    patience: int | None = None,
    tolerance: float | None = None,
    start: Any = None,
    on_progress: Progress | None = None,
) -> StepResult:
    """Masks of given areas that keep as much of a prediction as possible, or destroy it.

        fn = lambda clips: jax.nn.softmax(model.apply(variables, clips))
        r = step(fn, clip, target, key=jax.random.key(0))

    For each area a mask is found by descent on

        -log p(target | clip under the mask) + w_i area loss [+ w_i difference] [+ c_i core loss]

    Source: Li et al. (2021), Spatio-Temporal Perturbations for Video Attribution; with
    `per_frame`, the extremal perturbations of Fong et al. (2019), frame by frame. Otherwise than in
    the published program, the area is that of the visible volume and equal numbers are treated
    alike, so that the mask has the area asked for and does not depend on an order; `padded=True`
    has it as published.

    Args:
      fn: clips (B, t, h, w, c) -> probabilities (B, C), in JAX, by softmax or by independent
        sigmoids; (B,) is one column.
      clip: (t, h, w, c), floating point; or N clips (N, t, h, w, c), optimised at once.
      target: the class, or (N,) classes; a traced one that is no class gives NaN.
      areas: shares of the volume in (0, 1), a mask each.
      mode: "preserve": the mask keeps the prediction; "delete": without it the prediction is gone;
        "dual": both.
      iterations: of the descent, >= 1.
      key: `jax.random.key(seed)`, consumed; runs with other keys tell how certain a mask is.
        Required with `dropout`; without both, nothing is drawn.
      core: shape of the regions that a mask is to be made of, for masks that are smooth in space
        and time; by default none.
      difference: whether masks should change little from frame to frame.
      per_frame: whether every frame, rather than the clip, has the area.
      dropout: share of frames in [0, 1) in which masks are ignored, drawn anew in each iteration.
        One or two frames often are enough for a prediction; that any of them may be missing makes
        masks hold all that counts. Otherwise than in the published program; 0 for its way.
      padded: whether the area and the core are those of masks with their margin, as published;
        with `start` of ones, `published_weights()`, `Masking(edge="zero", step=7, sigma=11)` and no
        dropout, all is as published.
      masking: steps of masks, and what stands in the place of what they take.
      weights: of the regularisers; default `ramped_weights(iterations)`.
      optimizer: from optax; default `dampened_sgd()`.
      patience, tolerance: stop a mask whose cells moved less than `tolerance` (default 1e-4) on
        average in `patience` iterations in a row; by default never.
      start: small masks to start with, (A, t, h', w') or (N, A, t, h', w'), in 0..1; default one
        number for a clip, that at which a mask that is even begins to lose the prediction.
      on_progress: called as the descent goes on, with the iterations done and the energies.
    Returns:
      `StepResult`.
    Raises:
      TypeError: a clip of integers, fn that is no JAX function, a target that is no integer.
        ValueError: areas outside (0, 1), a target out of range, probabilities that are none (e.g.
        logits), `dropout` without a key, a clip smaller than the step of masks or the core,
        gradients that are zero throughout, a start of another shape.
    Cost: `iterations` forward and backward passes of fn on N * A clips ("dual": twice as many),
      before them 16 forward passes on N clips, and 2 L clips of memory for a pyramid. One compiled
      program for each fn (the same object), shape and setting. Under `jax.jit` or `jax.vmap` all
      iterations are one `lax.scan`, as they are on accelerators; on CPUs they are called one by
      one, for XLA slows convolutions within loops.
    """
    clip = expect_floating("clip", clip, "Scale frames as the model has it, e.g. to 0..1.")
    fits = clip.ndim in (4, 5) and clip.size > 0
    expect(fits, "clip", "shape (t, h, w, c) or (N, t, h, w, c)", clip.shape)
    expect_finite("clip", clip)
    one = clip.ndim == 4
    clips = clip[None] if one else clip
    targets = jnp.asarray(expect_classes("target", target), jnp.int32)
    targets = targets[None] if one and targets.ndim == 0 else targets
    expect(targets.shape == clips.shape[:1], "target", "one class per clip", targets.shape)
    records = {"masking": (masking, Masking), "weights": (weights, Weights), "core": (core, Core)}
    for name, (value, kind) in records.items():
        fits = value is None or isinstance(value, kind)
        expect(fits, name, f"a {kind.__name__} or None", type(value).__name__, kind=TypeError)
    if tolerance is not None:
        expect(bool(tolerance >= 0), "tolerance", "a number >= 0", tolerance)
        expect(patience is not None, "patience", "iterations beside tolerance", patience)
    masking = Masking() if masking is None else masking
    generator = masking.generator(clips.shape[2:4])
    core = None if core is None else core.of_frames(generator.shape)
    dropout, key = _dropout(dropout, key)
    scores = ScoresOf(fn, "clips", "probabilities")
    objective = Objective(
        fn=scores,
        mode=mode,
        areas=_areas(areas),
        generator=generator,
        weights=_weights(weights, iterations),
        core=core,
        difference=difference,
        per_frame=per_frame,
        dropout=dropout,
        padded=padded,
    )
    expect_choice("mode", mode, MODES)
    if core is not None:
        core.expect_fits((clips.shape[1], *(generator.padded_shape if padded else generator.shape)))
    iterations = expect_int("iterations", iterations, 1)
    if patience is not None:
        patience = expect_int("patience", patience, 1)
    stopping = Stopping(patience) if tolerance is None else Stopping(patience, tolerance)
    chosen = dampened_sgd() if optimizer is None else optimizer
    clean = clean_probabilities(scores, clips, targets)
    run = _Run(objective, chosen, stopping)
    levels = _levels(clips, masking)
    shape = (len(clips), len(objective.areas), clips.shape[1], *generator.small_shape)
    expect_gradients(run.gradient, levels, targets, jnp.ones(shape, clips.dtype))
    if start is None:
        small = _undecided(run, levels, targets, clean, shape, key)
    else:
        small = _given(start, shape, clips.dtype)
    state = started(small, run.optimizer, jax.random.key(0) if key is None else key)
    state, energies = _descended(run, levels, targets, state, iterations, on_progress)
    result = _result(run, levels, targets, state, energies, clean, iterations)
    if is_concrete(state.is_felt):
        felt = bool(np.asarray(state.is_felt | (state.failed_at >= 0)).any())
        got = "gradients that are zero everywhere"
        way_out = f"Rounding, argmax and stop_gradient have none. {FORWARD_ONLY}"
        expect(felt, "fn", "probabilities with gradients", got, way_out)
    return jax.tree.map(lambda leaf: leaf[0], result) if one else result


@dataclass(frozen=True)
class _Run:
    """All that is fixed for a compiled program."""

    objective: Objective
    optimizer: Optimizer
    stopping: Stopping

    def gradient(self, levels: Array, targets: Array, small: Array) -> Array:
        """Return the gradient of the energy at the start; to be traced alone."""
        zero = jnp.zeros((), jnp.int32)
        key = jax.random.key(0)
        return value_and_gradient(self.objective, levels, targets, small, zero, key)[1]

    def advance(self, levels: Array, targets: Array, state: State, n: int) -> tuple[State, Energy]:
        fast = replace(self.objective, fn=split_strides(self.objective.fn))

        def one(state: State) -> State:
            return updated(fast, self.optimizer, self.stopping, levels, targets, state)

        return descend(one, state, n)

    def under_even(self, levels: Array, targets: Array, value: Array) -> Array:
        """p(target) of N clips under masks of one number, (N,)."""
        mask = jnp.full(levels.shape[1:-1], value, levels.dtype)
        scores = self.objective.fn(perturb(levels, mask))
        return scores_of_targets(scores, targets)


_under_even = jax.jit(_Run.under_even, static_argnums=0)
_advance = jax.jit(_Run.advance, static_argnums=(0, 4))


@functools.partial(jax.jit, static_argnums=1)
def _levels(clips: Array, m: Masking) -> Array:
    """The pyramid of clips (N, t, h, w, c) under the settings of masks, (L, N, t, h, w, c)."""
    return pyramid(clips, m.perturbation, m.levels, m.max_blur, m.edge)


def _descended(
    run: _Run, levels: Array, targets: Array, state: State, iterations: int, watch: Progress | None
) -> tuple[State, Energy]:
    """All iterations: in one loop, or in calls of some that can be watched and cut short."""
    if not all(map(is_concrete, (levels, targets, state.small, state.key))):
        return run.advance(levels, targets, state, iterations)
    at_once = _CHUNK if watch or run.stopping.patience else iterations
    if jax.default_backend() == "cpu":
        at_once = 1
    parts: list[Energy] = []
    done = 0
    while done < iterations:
        n = min(at_once, iterations - done)
        state, energies = _advance(run, levels, targets, state, n)
        parts.append(energies)
        done += n
        if watch is not None:
            watch(done, state.energy)
        looks = run.stopping.patience is not None or done % _CHUNK == 0
        if looks and bool((state.stopped_at >= 0).all()):
            break
    whole = jax.tree.map(lambda *leaves: np.concatenate(leaves), *jax.device_get(parts))
    rest = iterations - done

    def filled(rows: np.ndarray) -> Array:
        return jnp.asarray(np.concatenate([rows, np.repeat(rows[-1:], rest, 0)]))

    return state, jax.tree.map(filled, whole)


@functools.partial(jax.jit, static_argnums=0)
def _ended(run: _Run, levels: Array, targets: Array, small: Array) -> tuple[Array, Array]:
    """The masks of small masks, and the probabilities under them."""
    masks = run.objective.generator(small)
    way = "delete" if run.objective.mode == "delete" else "preserve"
    return masks, probabilities(run.objective, levels, targets, masks)[way]


def _result(
    run: _Run,
    levels: Array,
    targets: Array,
    state: State,
    energies: Energy,
    clean: Array,
    iterations: int,
) -> StepResult:
    masks, probability = _ended(run, levels, targets, state.small)
    return StepResult(
        masks=masks,
        saliency=masks.sum(1),
        energy=jnp.moveaxis(energies.total, 0, -1),
        reward=jnp.moveaxis(energies.reward, 0, -1),
        probability=probability,
        clean_probability=clean,
        small_masks=state.small,
        stopped_at=jnp.where(state.stopped_at < 0, iterations, state.stopped_at),
        failed_at=state.failed_at,
        areas=run.objective.areas,
        mode=run.objective.mode,
    )


def _weights(weights: Weights | None, iterations: int) -> Weights:
    """Those given, or the default."""
    return ramped_weights(expect_int("iterations", iterations, 1)) if weights is None else weights


def _dropout(dropout: float, key: Any) -> tuple[float, Array | None]:
    """The share of frames to drop, and the key that they are drawn from."""
    is_number = isinstance(dropout, int | float | np.number) and not isinstance(dropout, bool)
    got = type(dropout).__name__
    expect(is_number, "dropout", "a share in [0, 1)", got, kind=TypeError)
    expect(0 <= dropout < 1, "dropout", "a share in [0, 1)", dropout)
    way_out = "Pass key=jax.random.key(0), or dropout=0."
    drawn = key is not None or dropout == 0
    expect(drawn, "key", f"a PRNG key, with dropout {dropout}", "None", way_out)
    return float(dropout), None if key is None else expect_key("key", key)


def _areas(areas: Sequence[float]) -> tuple[float, ...]:
    """Areas as numbers in (0, 1)."""
    chosen = tuple(map(float, expect_numbers("areas", areas).ravel()))
    expect(len(chosen) > 0, "areas", "at least one", "none")
    for area in chosen:
        expect(0 < area < 1, "areas", "shares of the volume in (0, 1)", area)
    return chosen


def _undecided(
    run: _Run,
    levels: Array,
    targets: Array,
    clean: Array,
    shape: tuple[int, ...],
    key: Array | None,
) -> Array:
    """Small masks that start where the prediction begins to go, one number for each clip.

    Above, it does not care about any place, and below there is nothing left of it: the gradient
    says most between. (N, A, t, h', w')
    """
    grid = np.linspace(0, 1, _GRID + 2, dtype=levels.dtype)[1:-1]
    if is_concrete(levels) and is_concrete(targets):
        p = jnp.stack([_under_even(run, levels, targets, value) for value in grid])
    else:
        p = lax.map(lambda value: run.under_even(levels, targets, value), jnp.asarray(grid))
    level = _level(p, clean, run.objective.mode).astype(levels.dtype)
    small = jnp.broadcast_to(level[:, None, None, None, None], shape)
    if key is None:
        return small
    drawn = jax.random.fold_in(key, -1 % 2**32)  # iterations count from 0
    return small + jax.random.uniform(drawn, shape, levels.dtype, -_SCATTER, _SCATTER)


@functools.partial(jax.jit, static_argnums=2)
def _level(p: Array, clean: Array, mode: Mode) -> Array:
    """The number of each clip, (N,), from the probabilities (grid, N) under masks that are even."""
    lost = p < _KEPT * clean[None]
    above = 1 - lost[::-1].argmax(0) / (_GRID + 1)  # above the last value at which it is lost
    level = jnp.where(lost.any(0), above - 0.5 / (_GRID + 1), 0.5)
    return 1 - level if mode == "delete" else level


def _given(start: Any, shape: tuple[int, ...], dtype: Any) -> Array:
    """Small masks to start with, (N, A, t, h', w')."""
    given = expect_floating("start", start).astype(dtype)
    given = given[None] if given.ndim == 4 else given
    expect(given.shape == shape, "start", f"shape {shape}, or {shape[1:]} of one clip", given.shape)
    if is_concrete(given):
        inside = bool(((given >= 0) & (given <= 1)).all())
        expect(inside, "start", "numbers in 0..1", f"{float(given.min())}..{float(given.max())}")
    return given
