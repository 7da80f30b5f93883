"""Optimisation of masks by gradient descent.

The energy of a mask is a reward, -log of the probability to keep or destroy, plus weighted
regularisers. Masks of N clips and A areas are optimised at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from esv_jax.metrics.voxels import scores_of_targets
from esv_jax.perturbation.masks import MaskGenerator, perturb
from esv_jax.perturbation.regularisers import Core, Ties, area_loss, core_loss, difference_loss
from esv_jax.strided import split_strides

Mode = Literal["preserve", "delete", "dual"]
MODES: tuple[Mode, ...] = get_args(Mode)

_LEARNING_RATE = 0.05
_MOMENTUM = _DAMPENING = 0.9  # as in PyTorch


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
    growth = float((600 / 10) ** (1 / max(iterations // 2, 1)))
    return Weights(10.0, growth, 600.0, core=300.0, core_after=iterations // 8)


class Energy(NamedTuple):
    """Reward, -log of the probability to maximise, and total energy, (N, A) each.

    The total includes regularisers with their final weights where there are any, so that iterations
    can be compared.
    """

    total: Array
    reward: Array


class State(NamedTuple):
    """State of the optimisation.

    Attributes:
      small: small masks (N, A, t, h', w'). last_finite: those of the last finite energy.
      buffer: of the descent with momentum, like them.
      iteration: (), completed. key: of all iterations.
      energy: at the start of the last iteration, (N, A) each; 0 before the first.
      n_static: consecutive iterations of small change, (N, A).
      stopped_at: iterations completed when the mask stopped, (N, A); -1 while it is running.
      failed_at: the iteration whose energy was not finite, (N, A); -1 for none.
      has_gradient: the reward had a non-zero gradient in some iteration, (N, A).
    """

    small: Array
    last_finite: Array
    buffer: Array
    iteration: Array
    key: Array
    energy: Energy
    n_static: Array
    stopped_at: Array
    failed_at: Array
    has_gradient: Array


def initial_state(small: Array, key: Array) -> State:
    """The state before the first iteration."""
    none = jnp.zeros(small.shape[:2], jnp.int32)
    zero = none.astype(small.dtype)
    return State(
        small=small,
        last_finite=small,
        buffer=jnp.zeros_like(small),
        iteration=jnp.zeros((), jnp.int32),
        key=key,
        energy=Energy(zero, zero),
        n_static=none,
        stopped_at=none - 1,
        failed_at=none - 1,
        has_gradient=none.astype(bool),
    )


@dataclass(frozen=True)
class Objective:
    """The energy of masks as a function of small masks, and its descent.

    Attributes: see `step`. `fn` maps clips (B, t, h, w, c) to probabilities (B, C).
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
    patience: int | None
    tolerance: float

    def value_and_gradient(
        self, levels: Array, targets: Array, small: Array, iteration: Array, key: Array
    ) -> tuple[Energy, Array, Array]:
        """Energy, its gradient by `small`, and the flag that the reward contributes to it.

        Args:
          levels: the pyramid of the clips, (L, N, t, h, w, c). targets: classes (N,).
          small: small masks (N, A, t, h', w').
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
        weights, dtype = self.weights, masks.dtype
        area = jnp.broadcast_to(jnp.asarray(self.areas, jnp.float32), masks.shape[:2])
        ties: Ties = "first" if self.padded else "share"
        spread = area_loss(masks, area, per_frame=self.per_frame, ties=ties)
        if self.difference:
            spread = spread + difference_loss(masks)
        filled = None
        if self.core is not None:
            filled = core_loss(masks, area, self.core, nominal=self.padded, ties=ties)

        def weighted(of_area: ArrayLike, of_core: ArrayLike) -> Array:
            total = jnp.asarray(of_area, dtype) * spread
            return total if filled is None else total + jnp.asarray(of_core, dtype) * filled

        now = weights.area_at(iteration), weights.core_at(iteration)
        final = now if math.isinf(weights.limit) else (weights.limit, weights.core)
        return weighted(*now), weighted(*final)

    def iterate(self, levels: Array, targets: Array, state: State) -> State:
        """One iteration. Masks that have stopped or failed do not change."""
        key = jax.random.fold_in(state.key, state.iteration)
        energy, gradient, has_gradient = self.value_and_gradient(
            levels, targets, state.small, state.iteration, key
        )
        finite = jnp.isfinite(energy.total) & jnp.isfinite(gradient).all((-3, -2, -1))
        running = state.stopped_at < 0
        fails, moves = running & ~finite, running & finite

        def select(which: Array, new: Array, old: Array) -> Array:
            return jnp.where(which.reshape(*which.shape, *(1,) * (new.ndim - 2)), new, old)

        gradient = select(finite, gradient, jnp.zeros_like(gradient))
        later = _MOMENTUM * state.buffer + (1 - _DAMPENING) * gradient
        buffer = jnp.where(state.iteration > 0, later, gradient)
        moved = jnp.clip(state.small - _LEARNING_RATE * buffer, 0, 1).astype(state.small.dtype)
        change = jnp.abs(moved - state.small).mean((-3, -2, -1))
        n_static = jnp.where(change < self.tolerance, state.n_static + 1, 0)
        stops = jnp.zeros_like(moves)
        if self.patience is not None:
            stops = moves & (n_static >= self.patience)
        known = moves | (state.iteration == 0)  # the first energy has no predecessor to repeat
        stopped_at = jnp.where(stops, state.iteration + 1, state.stopped_at)
        pairs = zip(energy, state.energy, strict=True)
        return State(
            small=select(moves, moved, select(fails, state.last_finite, state.small)),
            last_finite=select(moves, state.small, state.last_finite),
            buffer=buffer,
            iteration=state.iteration + 1,
            key=state.key,
            energy=Energy(*(select(known, *pair) for pair in pairs)),
            n_static=n_static,
            stopped_at=jnp.where(fails, state.iteration, stopped_at),
            failed_at=jnp.where(fails, state.iteration, state.failed_at),
            has_gradient=state.has_gradient | has_gradient,
        )

    def run(self, levels: Array, targets: Array, state: State, n: int) -> tuple[State, Energy]:
        """n iterations in one loop, and the energies (n, N, A) at the start of each."""
        fast = replace(self, fn=split_strides(self.fn))

        def body(state: State, _: None) -> tuple[State, Energy]:
            state = fast.iterate(levels, targets, state)
            return state, state.energy

        if n == 1:  # no loop: XLA runs convolutions within one at a third of their speed on CPUs
            state, energy = body(state, None)
            return state, jax.tree.map(lambda leaf: leaf[None], energy)
        return lax.scan(body, state, length=n)
