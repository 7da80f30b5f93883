"""STEP: the smallest region of space and time that preserves, or destroys, a prediction."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

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
    message,
    traceable,
)
from esv_jax.metrics.voxels import (
    ProbabilityFunction,
    checked_probabilities,
    scores_of_targets,
)
from esv_jax.perturbation.descent import (
    MODES,
    Energy,
    Mode,
    Objective,
    State,
    Weights,
    initial_state,
    ramped_weights,
)
from esv_jax.perturbation.masks import Masking, perturb, pyramid
from esv_jax.perturbation.regularisers import Core
from esv_jax.records import register_record, static_field

_CHUNK = 25  # iterations per call, with a callback or patience
_JITTER = 0.01  # of the initial masks
_KEPT = 0.9  # share of its probability at which a prediction counts as preserved
_GRID = 15  # values tried for the initial masks
_FORWARD_ONLY = (
    "Methods that need only forward passes still work: metrics.insertion and deletion, and"
    " explain(BlackBox(fn), clip)."
)
Progress = Callable[[int, Energy], None]
"""Called with the number of iterations completed and the last energies (N, A)."""


@register_record
@dataclass(frozen=True)
class StepResult:
    """Masks of a clip, one per area; for N clips, with a leading axis N everywhere.

    Attributes:
      masks: (A, t, h, w) in 0..1, 1 where the clip is kept ("preserve") or removed ("delete").
      saliency: their sum, (t, h, w) in 0..A; highest within the masks of small areas.
      energy: reward and regularisers, (A, iterations), at the start of each iteration, with the
        final weights of the regularisers, so that iterations can be compared; constant once a mask
        has stopped. Not finite only where the first one is not.
      reward: the part of the energy that depends on the prediction, (A, iterations).
      probability: final one of the target, (A,): under the masks ("preserve", "dual") or under
        1 - masks ("delete").
      clean_probability: of the target for the unperturbed clip, ().
      small_masks: the parameters optimised, (A, t, h', w'), one per cell.
      stopped_at: iterations completed when a mask stopped, (A,) int32; all of them if it did not.
      failed_at: the iteration, from 0, whose energy was not finite, (A,) int32, or -1. The mask is
        then the last one with a finite energy.
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
        """Masks whose energy was not finite, as sentences."""
        failed = np.asarray(self.failed_at)
        return tuple(
            f"area {self.areas[index[-1]]}{f' of clip {index[0]}' if len(index) > 1 else ''}: the"
            f" energy was not finite at iteration {failed[tuple(index)]}; its mask is the last"
            " before that."
            for index in np.argwhere(failed >= 0)
        )


def step(
    fn: ProbabilityFunction,
    clip: ArrayLike,
    target: ArrayLike | Sequence[int],
    *,
    key: Array,
    areas: Sequence[float] = (0.05, 0.1, 0.2),
    mode: Mode = "preserve",
    iterations: int = 800,
    core: Core | None = None,
    difference: bool = False,
    per_frame: bool = False,
    dropout: float = 0.3,
    padded: bool = False,
    masking: Masking | None = None,
    weights: Weights | None = None,
    patience: int | None = None,
    tolerance: float | None = None,
    start: ArrayLike | None = None,
    on_progress: Progress | None = None,
) -> StepResult:
    """Masks of given areas that preserve a prediction as far as possible, or destroy it.

        fn = lambda clips: jax.nn.softmax(model.apply(variables, clips))
        r = step(fn, clip, target, key=jax.random.key(0))

    For each area a mask is found by descent on

        -log p(target | clip under the mask) + w_i area loss [+ w_i difference] [+ c_i core loss]

    Source: Li et al. (2021), Spatio-Temporal Perturbations for Video Attribution; with
    `per_frame`, the extremal perturbations of Fong et al. (2019), frame by frame. Unlike in the
    published program, the area is that of the visible volume and ties are shared, so the mask has
    the requested area and does not depend on an order; `padded=True` is the published variant.

    Args:
      fn: clips (B, t, h, w, c) -> probabilities (B, C), in JAX, by softmax or independent
        sigmoids, (B,) being one column; or one clip -> logits (C,); or an object with `logits`.
      clip: (t, h, w, c), floating point; or N clips (N, t, h, w, c), optimised at once.
      target: the class, or (N,) classes; a traced one out of range gives NaN.
      key: `jax.random.key(seed)`, consumed: of the dropout, and of noise of +-0.01 on the initial
        masks unless `start` is given. Several keys show the variability of a mask.
      areas: shares of the volume in (0, 1), one mask each.
      mode: "preserve": the mask keeps the prediction; "delete": its complement destroys it;
        "dual": both.
      iterations: of the descent, >= 1.
      core: shape that the mask is made of, for masks smooth in space and time; default none.
      difference: penalises change of the masks from frame to frame.
      per_frame: every frame, rather than the clip, has the area.
      dropout: share of frames in [0, 1) in which masks are taken as 0, drawn anew in each
        iteration. One or two frames often suffice for a prediction; dropout makes masks cover all
        relevant ones. The published program has none.
      padded: area and core of masks with their margin, as published. With `start` of ones,
        `published_weights()`, `Masking(edge="zero", step=7, sigma=11)` and no dropout this is the
        published program.
      masking: steps of masks, and content of masked regions.
      weights: of the regularisers; default `ramped_weights(iterations)`.
      patience, tolerance: stop a mask whose cells change by less than `tolerance` (default 1e-4) on
        average in `patience` consecutive iterations; default never.
      start: initial small masks, (A, t, h', w') or (N, A, t, h', w'), in 0..1; default one value
        for each clip, at which a constant mask begins to lose the prediction.
      on_progress: called with the number of iterations completed and the energies.
    Returns:
      `StepResult`.
    Raises:
      TypeError: a clip of integers, fn not in JAX, a target that is not an integer. ValueError:
      areas outside (0, 1), a target out of range, values of fn that are not probabilities (e.g.
      logits), a clip smaller than the mask step or the core, zero gradients, a start of another
      shape.
    Cost: `iterations` forward and backward passes of fn on N * A clips ("dual": twice as many),
      16 forward passes on N clips, and 2 L clips of memory for a pyramid. One compilation for each
      fn (the same object), shape and setting. Under `jax.jit` or `jax.vmap`, and on accelerators,
      the iterations are one `lax.scan`; on CPUs they are separate calls, because XLA slows
      convolutions within loops.
    """
    clip = expect_floating("clip", clip, "Scale frames as the model does, e.g. to 0..1.")
    fits = clip.ndim in (4, 5) and clip.size > 0
    expect(fits, "clip", "shape (t, h, w, c) or (N, t, h, w, c)", clip.shape)
    expect_finite("clip", clip)
    single = clip.ndim == 4
    clips = clip[None] if single else clip
    targets = jnp.asarray(expect_classes("target", target), jnp.int32)
    targets = targets[None] if single and targets.ndim == 0 else targets
    expect(targets.shape == clips.shape[:1], "target", "one class per clip", targets.shape)
    key = expect_key("key", key)
    iterations = expect_int("iterations", iterations, 1)
    expect_choice("mode", mode, MODES)
    kinds = {"masking": (masking, Masking), "weights": (weights, Weights), "core": (core, Core)}
    for name, (value, kind) in kinds.items():
        known, got = value is None or isinstance(value, kind), type(value).__name__
        expect(known, name, f"a {kind.__name__} or None", got, kind=TypeError)
    is_number = isinstance(dropout, int | float | np.number) and not isinstance(dropout, bool)
    got = type(dropout).__name__
    expect(is_number, "dropout", "a share in [0, 1)", got, kind=TypeError)
    expect(0 <= dropout < 1, "dropout", "a share in [0, 1)", dropout)
    shares = tuple(map(float, expect_numbers("areas", areas).ravel()))
    expect(len(shares) > 0, "areas", "at least one", "none")
    for area in shares:
        expect(0 < area < 1, "areas", "shares of the volume in (0, 1)", area)
    if tolerance is not None:
        expect(bool(tolerance >= 0), "tolerance", "a number >= 0", tolerance)
        expect(patience is not None, "patience", "iterations beside tolerance", patience)
    masking = Masking() if masking is None else masking
    generator = masking.generator((clips.shape[2], clips.shape[3]))
    if core is not None:
        core = core.for_frames(generator.shape)
        core.expect_fits((clips.shape[1], *(generator.padded_shape if padded else generator.shape)))
    scores = ScoresOf(fn, "clips", "probabilities")
    objective = Objective(
        fn=scores,
        mode=mode,
        areas=shares,
        generator=generator,
        weights=ramped_weights(iterations) if weights is None else weights,
        core=core,
        difference=difference,
        per_frame=per_frame,
        dropout=float(dropout),
        padded=padded,
        patience=None if patience is None else expect_int("patience", patience, 1),
        tolerance=1e-4 if tolerance is None else tolerance,
    )
    scores.traced(clips, _FORWARD_ONLY)
    known = is_concrete(clips) and is_concrete(targets)
    found = checked_probabilities(_scores(scores, clips) if known else scores(clips), targets)
    clean = scores_of_targets(found, targets)
    blur = masking.levels, masking.max_blur, masking.edge
    levels = _pyramid(clips, masking.perturbation, *blur)
    shape = (len(clips), len(shares), clips.shape[1], *generator.small_shape)
    _expect_gradients(objective, levels, targets, jnp.ones(shape, clips.dtype))
    if start is None:
        small = _initial_masks(objective, levels, targets, clean, shape, key)
    else:
        small = expect_floating("start", start).astype(clips.dtype)
        small = small[None] if small.ndim == 4 else small
        expected = f"shape {shape}, or {shape[1:]} of one clip"
        expect(small.shape == shape, "start", expected, small.shape)
        if is_concrete(small):
            low, high = float(small.min()), float(small.max())
            expect(low >= 0 and high <= 1, "start", "numbers in 0..1", f"{low}..{high}")
    state, energies = _optimise(
        objective, levels, targets, initial_state(small, key), iterations, on_progress
    )
    masks, probability = _final(objective, levels, targets, state.small)
    if is_concrete(state.has_gradient):
        useful = bool(np.asarray(state.has_gradient | (state.failed_at >= 0)).any())
        got = "gradients that are zero everywhere"
        way_out = f"Rounding, argmax and stop_gradient have none. {_FORWARD_ONLY}"
        expect(useful, "fn", "probabilities with gradients", got, way_out)
    result = StepResult(
        masks=masks,
        saliency=masks.sum(1),
        energy=jnp.moveaxis(energies.total, 0, -1),
        reward=jnp.moveaxis(energies.reward, 0, -1),
        probability=probability,
        clean_probability=clean,
        small_masks=state.small,
        stopped_at=jnp.where(state.stopped_at < 0, iterations, state.stopped_at),
        failed_at=state.failed_at,
        areas=shares,
        mode=mode,
    )
    return jax.tree.map(lambda leaf: leaf[0], result) if single else result


_pyramid = jax.jit(pyramid, static_argnums=(1, 2, 3, 4))
_scores = jax.jit(ScoresOf.__call__, static_argnums=0)
_advance = jax.jit(Objective.run, static_argnums=(0, 4))


def _expect_gradients(objective: Objective, levels: Array, targets: Array, small: Array) -> None:
    """Trace the gradient of fn; raise TypeError if there is none, e.g. for a host callback."""

    def gradient(levels: Array, targets: Array, small: Array) -> Array:
        zero, key = jnp.zeros((), jnp.int32), jax.random.key(0)
        return objective.value_and_gradient(levels, targets, small, zero, key)[1]

    try:
        with traceable(_FORWARD_ONLY):
            jax.eval_shape(gradient, levels, targets, small)
    except ValueError as error:
        if "callback" not in str(error):
            raise
        got = "one that calls back to the host"
        raise TypeError(message("fn", "a function with gradients", got, _FORWARD_ONLY)) from error


def _initial_masks(
    objective: Objective,
    levels: Array,
    targets: Array,
    clean: Array,
    shape: tuple[int, ...],
    key: Array,
) -> Array:
    """Small masks of one value per clip, plus noise, (N, A, t, h', w').

    The value is that at which the prediction begins to be lost, where gradients are largest: the
    prediction is insensitive to masks above, and lost below.
    """
    grid = np.linspace(0, 1, _GRID + 2, dtype=levels.dtype)[1:-1]
    if is_concrete(levels) and is_concrete(targets):
        p = jnp.stack([_constant_mask(objective, levels, targets, value) for value in grid])
    else:
        p = lax.map(lambda v: _constant_mask(objective, levels, targets, v), jnp.asarray(grid))
    value = _critical_value(p, clean, objective.mode).astype(levels.dtype)
    own_key = jax.random.fold_in(key, -1 % 2**32)  # iterations count from 0
    noise = jax.random.uniform(own_key, shape, levels.dtype, -_JITTER, _JITTER)
    return jnp.broadcast_to(value[:, None, None, None, None], shape) + noise


@functools.partial(jax.jit, static_argnums=0)
def _constant_mask(objective: Objective, levels: Array, targets: Array, value: Array) -> Array:
    """p(target) of N clips under masks of one value, (N,)."""
    mask = jnp.full(levels.shape[1:-1], value, levels.dtype)
    return scores_of_targets(objective.fn(perturb(levels, mask)), targets)


@functools.partial(jax.jit, static_argnums=2)
def _critical_value(p: Array, clean: Array, mode: Mode) -> Array:
    """The initial value of each clip, (N,), from probabilities (grid, N) under constant masks."""
    lost = p < _KEPT * clean[None]
    above = 1 - lost[::-1].argmax(0) / (_GRID + 1)  # the value above the last one that loses it
    value = jnp.where(lost.any(0), above - 0.5 / (_GRID + 1), 0.5)
    return 1 - value if mode == "delete" else value


def _optimise(
    objective: Objective,
    levels: Array,
    targets: Array,
    state: State,
    iterations: int,
    on_progress: Progress | None,
) -> tuple[State, Energy]:
    """All iterations, in one loop or in several calls."""
    if not all(map(is_concrete, (levels, targets, state.small, state.key))):
        return _advance(objective, levels, targets, state, iterations)
    chunk = _CHUNK if on_progress or objective.patience else iterations
    if jax.default_backend() == "cpu":
        chunk = 1
    parts: list[Energy] = []
    done = 0
    while done < iterations:
        n = min(chunk, iterations - done)
        state, energies = _advance(objective, levels, targets, state, n)
        parts.append(energies)
        done += n
        if on_progress is not None:
            on_progress(done, state.energy)
        may_have_stopped = objective.patience is not None or done % _CHUNK == 0
        if may_have_stopped and bool((state.stopped_at >= 0).all()):
            break

    def whole(*rows: np.ndarray) -> Array:
        last = np.repeat(rows[-1][-1:], iterations - done, 0)
        return jnp.asarray(np.concatenate([*rows, last]))

    return state, jax.tree.map(whole, *jax.device_get(parts))


@functools.partial(jax.jit, static_argnums=0)
def _final(
    objective: Objective, levels: Array, targets: Array, small: Array
) -> tuple[Array, Array]:
    """The masks of small masks, and the probabilities under them."""
    masks = objective.generator(small)
    way = "delete" if objective.mode == "delete" else "preserve"
    return masks, objective.probabilities(levels, targets, masks)[way]
