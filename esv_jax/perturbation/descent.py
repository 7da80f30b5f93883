"""Optimisation of masks by gradient descent.

The energy of a mask is a reward, -log of the probability to keep or destroy, plus weighted
regularisers. Masks of N clips and A areas are optimised at once.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias, cast, get_args

import chex
import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from esv_jax.metrics.voxels import scores_of_targets
from esv_jax.perturbation.masks import MaskGenerator, perturb
from esv_jax.perturbation.regularisers import Core, Ties, area_loss, core_loss, difference_loss

Mode = Literal["preserve", "delete", "dual"]
MODES: tuple[Mode, ...] = get_args(Mode)
Optimizer: TypeAlias = optax.GradientTransformation


@dataclass(frozen=True)
class Weights:
    """Weights of the regularisers at iteration i = 0, 1, ...

    Attributes:
      area: of the area (and difference) loss at iteration 0; min(limit, area * growth ** i) later.
      growth: per iteration. limit: upper bound.
      core: of the core loss after iteration `core_after`, and 0 before.
      core_after: last iteration without the core loss.
    """

    area: float
    growth: float
    limit: float
    core: float
    core_after: int

    def area_at(self, iteration: Array) -> Array:
        """The weight of the area loss, float32."""
        grown = self.area * jnp.asarray(self.growth, jnp.float32) ** iteration.astype(jnp.float32)
        return jnp.minimum(grown, self.limit)

    def core_at(self, iteration: Array) -> Array:
        """The weight of the core loss, float32."""
        return jnp.where(iteration > self.core_after, jnp.float32(self.core), jnp.float32(0))


def published_weights() -> Weights:
    """The weights of Li et al. (2021): 300 for the area from the start, slowly growing."""
    return Weights(area=300.0, growth=1.0008668, limit=float("inf"), core=300.0, core_after=100)


def ramped_weights(iterations: int) -> Weights:
    """Weights under which the prediction determines the position of a mask before its area.

    The weight of the area grows from 10 to 600 in the first half of the iterations; the core loss
    begins after an eighth of them.
    """
    half = max(iterations // 2, 1)
    growth = float((600 / 10) ** (1 / half))
    return Weights(10.0, growth, 600.0, core=300.0, core_after=iterations // 8)


class Energy(NamedTuple):
    """Energy of N clips and A areas, (N, A) each.

    Attributes:
      total: reward plus regularisers, these with their final weights where there are any, so
        that iterations can be compared.
      reward: -log of the probability to maximise.
    """

    total: Array
    reward: Array


@dataclass(frozen=True)
class Objective:
    """The energy of masks as a function of small masks.

    Attributes:
      fn: clips (B, t, h, w, c) -> probabilities (B, C).
      mode: "preserve" keeps the prediction with the mask, "delete" destroys it without, "dual"
        does both.
      areas: A shares of the volume.
      generator: of masks from small masks.
      weights: of the regularisers.
      core: of the core loss, or None. difference: adds the difference loss.
      per_frame: every frame has the area.
      dropout: share of frames in which masks are taken as 0, drawn anew in each iteration.
      padded: the published variant: regularisers of padded masks, cores counted by their nominal
        size, ties ordered.
    """

    fn: Callable[[Array], Array]
    mode: Mode
    areas: tuple[float, ...]
    generator: MaskGenerator
    weights: Weights
    core: Core | None
    difference: bool
    per_frame: bool
    dropout: float
    padded: bool

    def value_and_gradient(
        self, levels: Array, targets: Array, small: Array, iteration: Array, key: Array
    ) -> tuple[Energy, Array, Array]:
        """Energy, its gradient, and the flag that the reward contributes to the gradient.

        Args:
          levels: the pyramid of the clips, (L, N, t, h, w, c). targets: classes (N,).
          small: small masks (N, A, t, h', w').
          iteration: (), from 0. key: of this iteration.
        Returns:
          `Energy`; the gradient by `small`; (N, A) bool.
        Cost: one forward and backward pass of fn on N * A clips, twice as many for "dual".
        """
        generate = self.generator.padded if self.padded else self.generator
        masks, pull = jax.vjp(generate, small)

        def rewards(masks: Array) -> tuple[Array, Array]:
            visible = self.generator.crop(masks) if self.padded else masks
            each = self._reward(levels, targets, self._with_frames_dropped(visible, key))
            return each.sum(), each

        def penalties(masks: Array) -> tuple[Array, Array]:
            now, final = self._penalty(masks, iteration)
            return now.sum(), final

        (_, reward), by_reward = jax.value_and_grad(rewards, has_aux=True)(masks)
        (_, penalty), by_penalty = jax.value_and_grad(penalties, has_aux=True)(masks)
        (gradient,) = pull(by_reward + by_penalty)
        if not self.padded:
            scale = self.generator.gradient_scale(small.dtype)
            gradient = gradient * jnp.broadcast_to(scale, gradient.shape)
        return Energy(reward + penalty, reward), gradient, (by_reward != 0).any((-3, -2, -1))

    def _with_frames_dropped(self, masks: Array, key: Array) -> Array:
        """Masks (N, A, t, h, w) set to 0 in random frames, the same ones for all areas."""
        if not self.dropout:
            return masks
        n, _, t = masks.shape[:3]
        stays = jax.random.bernoulli(key, 1 - self.dropout, (n, 1, t, 1, 1))
        return jnp.where(jnp.broadcast_to(stays, masks.shape), masks, jnp.zeros_like(masks))

    def _reward(self, levels: Array, targets: Array, masks: Array) -> Array:
        """-log p(target | mask), -log(1 - p(target | 1 - mask)), or their sum, (N, A)."""
        total = jnp.zeros(masks.shape[:2], masks.dtype)
        tiny = jnp.finfo(masks.dtype).tiny
        for way, p in self.probabilities(levels, targets, masks).items():
            p = p if way == "preserve" else 1 - p
            total = total - jnp.log(jnp.maximum(p, tiny)).astype(masks.dtype)
        return total

    def probabilities(self, levels: Array, targets: Array, masks: Array) -> dict[str, Array]:
        """p(target), (N, A), under the masks ("preserve") and under 1 - masks ("delete")."""
        ways = [way for way in ("preserve", "delete") if self.mode in (way, "dual")]
        views = jnp.stack([masks if way == "preserve" else 1 - masks for way in ways])
        by_area = jax.vmap(perturb, (None, 1), 1)  # levels (L, N, ...), masks (N, A, ...)
        clips = jax.vmap(by_area, (None, 0))(levels, views)  # (ways, N, A, t, h, w, c)
        lead = clips.shape[:3]
        scores = self.fn(clips.reshape(math.prod(lead), *clips.shape[3:]))
        at = jnp.broadcast_to(targets[None, :, None], lead)
        return dict(zip(ways, scores_of_targets(scores.reshape(*lead, -1), at), strict=True))

    def _penalty(self, masks: Array, iteration: Array) -> tuple[Array, Array]:
        """Weighted regularisers of masks (N, A, t, h, w): with current and final weights."""
        weights = self.weights
        area = jnp.broadcast_to(jnp.asarray(self.areas, jnp.float32), masks.shape[:2])
        ties: Ties = "first" if self.padded else "share"
        spread = area_loss(masks, area, per_frame=self.per_frame, ties=ties)
        if self.difference:
            spread = spread + difference_loss(masks)
        now = weights.area_at(iteration).astype(masks.dtype)
        final = now if math.isinf(weights.limit) else jnp.asarray(weights.limit, masks.dtype)
        if self.core is None:
            return now * spread, final * spread
        filled = core_loss(masks, area, self.core, nominal=self.padded, ties=ties)
        core_now = weights.core_at(iteration).astype(masks.dtype)
        core_final = (
            core_now if math.isinf(weights.limit) else jnp.asarray(weights.core, masks.dtype)
        )
        return now * spread + core_now * filled, final * spread + core_final * filled


class DampenedState(NamedTuple):
    """State of `dampened_sgd`: the buffer, and the flag that it holds a gradient."""

    buffer: chex.ArrayTree
    is_started: Array


@functools.cache
def dampened_sgd(
    learning_rate: float = 0.05, momentum: float = 0.9, dampening: float = 0.9
) -> Optimizer:
    """Gradient descent with momentum and damped gradients, as in PyTorch.

    buffer = momentum * buffer + (1 - dampening) * gradient, at first the gradient itself; the
    update is -learning_rate * buffer.
    """

    def init(params: optax.Params) -> DampenedState:
        return DampenedState(jax.tree.map(jnp.zeros_like, params), jnp.zeros((), bool))

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        buffered, is_started = cast(DampenedState, state)

        def mixed(buffer: Array, gradient: Array) -> Array:
            later = momentum * buffer + (1 - dampening) * gradient
            return jnp.where(is_started, later, gradient)

        buffer = jax.tree.map(mixed, buffered, updates)
        return buffer, DampenedState(buffer, jnp.ones((), bool))

    return optax.chain(optax.GradientTransformation(init, update), optax.scale(-learning_rate))


class State(NamedTuple):
    """State of the optimisation.

    Attributes:
      small: small masks (N, A, t, h', w').
      last_finite: small masks at the last iteration with a finite energy.
      optimizer: state of the optimizer.
      iteration: (), completed. key: of all iterations.
      energy: at the start of the last iteration, (N, A) each; 0 before the first.
      n_static: consecutive iterations of small change, (N, A).
      stopped_at: iterations completed when the mask stopped, (N, A); -1 while it is running.
      failed_at: the iteration whose energy was not finite, (N, A); -1 for none.
      has_gradient: the reward had a non-zero gradient in some iteration, (N, A).
    """

    small: Array
    last_finite: Array
    optimizer: optax.OptState
    iteration: Array
    key: Array
    energy: Energy
    n_static: Array
    stopped_at: Array
    failed_at: Array
    has_gradient: Array


def initial_state(small: Array, optimizer: Optimizer, key: Array) -> State:
    """The state before the first iteration."""
    shape, dtype = small.shape[:2], small.dtype
    never = jnp.full(shape, -1, jnp.int32)
    return State(
        small=small,
        last_finite=small,
        optimizer=optimizer.init(small),
        iteration=jnp.zeros((), jnp.int32),
        key=key,
        energy=Energy(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)),
        n_static=jnp.zeros(shape, jnp.int32),
        stopped_at=never,
        failed_at=never,
        has_gradient=jnp.zeros(shape, bool),
    )


def iterate(
    objective: Objective,
    optimizer: Optimizer,
    patience: int | None,
    tolerance: float,
    levels: Array,
    targets: Array,
    state: State,
) -> State:
    """One iteration. Masks that have stopped or failed do not change.

    A mask stops after `patience` consecutive iterations in which its cells change by less than
    `tolerance` on average; without `patience` never.
    """
    key = jax.random.fold_in(state.key, state.iteration)
    energy, gradient, has_gradient = objective.value_and_gradient(
        levels, targets, state.small, state.iteration, key
    )
    finite = jnp.isfinite(energy.total) & jnp.isfinite(gradient).all((-3, -2, -1))
    running = state.stopped_at < 0
    fails, moves = running & ~finite, running & finite

    def select(which: Array, new: Array, old: Array) -> Array:
        return jnp.where(which.reshape(*which.shape, *(1,) * (new.ndim - 2)), new, old)

    gradient = select(finite, gradient, jnp.zeros_like(gradient))  # optimizers may mix masks
    updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.small)
    moved = jnp.clip(state.small + jnp.asarray(updates), 0, 1).astype(state.small.dtype)
    change = jnp.abs(moved - state.small).mean((-3, -2, -1))
    n_static = jnp.where(change < tolerance, state.n_static + 1, 0)
    stops = jnp.zeros_like(moves)
    if patience is not None:
        stops = moves & (n_static >= patience)
    done = state.iteration + 1
    known = moves | (state.iteration == 0)  # the first energy has no predecessor to repeat
    stopped_at = jnp.where(stops, done, state.stopped_at)
    return State(
        small=select(moves, moved, select(fails, state.last_finite, state.small)),
        last_finite=select(moves, state.small, state.last_finite),
        optimizer=optimizer_state,
        iteration=done,
        key=state.key,
        energy=Energy(*(select(known, *pair) for pair in zip(energy, state.energy, strict=True))),
        n_static=n_static,
        stopped_at=jnp.where(fails, state.iteration, stopped_at),
        failed_at=jnp.where(fails, state.iteration, state.failed_at),
        has_gradient=state.has_gradient | has_gradient,
    )


def run_iterations(advance: Callable[[State], State], state: State, n: int) -> tuple[State, Energy]:
    """n iterations in one loop, and the energies (n, N, A) at the start of each."""

    def body(state: State, _: None) -> tuple[State, Energy]:
        state = advance(state)
        return state, state.energy

    if n == 1:  # no loop: XLA runs convolutions within one at a third of their speed on CPUs
        state, energy = body(state, None)
        return state, jax.tree.map(lambda leaf: leaf[None], energy)
    return lax.scan(body, state, length=n)
