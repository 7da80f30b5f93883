"""Descent on the energy of masks: one update, and many in one loop."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from esv_jax.perturbation.objective import Energy, Objective, value_and_gradient

Optimizer: TypeAlias = optax.GradientTransformation


class DampenedState(NamedTuple):
    """The buffer of `dampened_sgd`, and whether it has seen a gradient yet."""

    buffer: Any
    is_started: Array


@functools.cache
def dampened_sgd(
    learning_rate: float = 0.05, momentum: float = 0.9, dampening: float = 0.9
) -> Optimizer:
    """Gradient descent with momentum whose new gradients are damped.

    buffer = momentum * buffer + (1 - dampening) * gradient, the first gradient in full; a step is
    -learning_rate * buffer.
    """

    def init(params: Any) -> DampenedState:
        return DampenedState(jax.tree.map(jnp.zeros_like, params), jnp.zeros((), bool))

    def update(updates: Any, state: DampenedState, params: Any = None) -> tuple[Any, DampenedState]:
        def mixed(buffer: Array, gradient: Array) -> Array:
            later = momentum * buffer + (1 - dampening) * gradient
            return jnp.where(state.is_started, later, gradient)

        buffer = jax.tree.map(mixed, state.buffer, updates)
        return buffer, DampenedState(buffer, jnp.ones((), bool))

    return optax.chain(optax.GradientTransformation(init, update), optax.scale(-learning_rate))


@dataclass(frozen=True)
class Stopping:
    """When masks are left as they are.

    Attributes:
      patience: iterations in a row in which a mask stands still; None for never.
      tolerance: mean change of a mask's cells in an iteration that counts as standing still.
    """

    patience: int | None = None
    tolerance: float = 1e-4


class State(NamedTuple):
    """Masks of N clips and A areas on their way.

    Attributes:
      small: small masks (N, A, t, h', w'). good: the last ones of which the energy was finite.
      optimizer: state of the optimizer.
      iteration: (), done so far. key: of all iterations.
      energy: of the last iteration, (N, A) each; 0 before the first.
      n_still: iterations in a row that a mask stood still, (N, A).
      stopped_at: iterations done when it stopped for good, (N, A); -1 as long as it goes on.
      failed_at: the iteration whose energy was not finite, (N, A); -1 for none.
      is_felt: whether the prediction ever had a gradient, (N, A).
    """

    small: Array
    good: Array
    optimizer: Any
    iteration: Array
    key: Array
    energy: Energy
    n_still: Array
    stopped_at: Array
    failed_at: Array
    is_felt: Array


def started(small: Array, optimizer: Optimizer, key: Array) -> State:
    """Before the first iteration."""
    lead, dtype = small.shape[:2], small.dtype
    nothing = jnp.full(lead, -1, jnp.int32)
    return State(
        small=small,
        good=small,
        optimizer=optimizer.init(small),
        iteration=jnp.zeros((), jnp.int32),
        key=key,
        energy=Energy(jnp.zeros(lead, dtype), jnp.zeros(lead, dtype)),
        n_still=jnp.zeros(lead, jnp.int32),
        stopped_at=nothing,
        failed_at=nothing,
        is_felt=jnp.zeros(lead, bool),
    )


def updated(
    objective: Objective,
    optimizer: Optimizer,
    stopping: Stopping,
    levels: Array,
    targets: Array,
    state: State,
) -> State:
    """One iteration. What has stopped, or failed, stays as it is."""
    energy, gradient, is_felt = value_and_gradient(
        objective,
        levels,
        targets,
        state.small,
        state.iteration,
        jax.random.fold_in(state.key, state.iteration),
    )
    finite = jnp.isfinite(energy.total) & jnp.isfinite(gradient).all((-3, -2, -1))
    goes_on = state.stopped_at < 0
    fails, alive = goes_on & ~finite, goes_on & finite

    def of(which: Array, new: Array, old: Array) -> Array:
        return jnp.where(which.reshape(*which.shape, *(1,) * (new.ndim - 2)), new, old)

    gradient = of(finite, gradient, jnp.zeros_like(gradient))  # optimizers may mix masks
    updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.small)
    moved = jnp.clip(state.small + updates, 0, 1).astype(state.small.dtype)
    change = jnp.abs(moved - state.small).mean((-3, -2, -1))
    n_still = jnp.where(change < stopping.tolerance, state.n_still + 1, 0)
    rests = jnp.zeros_like(alive)
    if stopping.patience is not None:
        rests = alive & (n_still >= stopping.patience)
    done = state.iteration + 1
    known = alive | (state.iteration == 0)  # the first energy has none before it to repeat
    stopped_at = jnp.where(rests, done, state.stopped_at)
    return State(
        small=of(alive, moved, of(fails, state.good, state.small)),
        good=of(alive, state.small, state.good),
        optimizer=optimizer_state,
        iteration=done,
        key=state.key,
        energy=Energy(
            *(of(known, new, old) for new, old in zip(energy, state.energy, strict=True))
        ),
        n_still=n_still,
        stopped_at=jnp.where(fails, state.iteration, stopped_at),
        failed_at=jnp.where(fails, state.iteration, state.failed_at),
        is_felt=state.is_felt | is_felt,
    )


def descend(advance: Callable[[State], State], state: State, n: int) -> tuple[State, Energy]:
    """n iterations in one loop, and the energies (n, N, A) at the start of each."""

    def body(state: State, _: None) -> tuple[State, Energy]:
        state = advance(state)
        return state, state.energy

    if n == 1:  # no loop: XLA runs convolutions within one at a third of their speed on CPUs
        state, energy = body(state, None)
        return state, jax.tree.map(lambda leaf: leaf[None], energy)
    return lax.scan(body, state, length=n)
