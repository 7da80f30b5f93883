"""Functions of a network, compiled and kept."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
from jax import Array

from esv_jax.models import ClipModel


class Same:
    """A network that equals itself alone, whatever its own idea of equality."""

    def __init__(self, network: Any) -> None:
        self.network = network

    def __hash__(self) -> int:
        return id(self.network)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.network is self.network


def program(network: Any, fn: Callable[..., Array]) -> Callable[..., Array]:
    """The compiled function (...) -> fn(network, ...).

    Weights of a `ClipModel` are arguments of the program: written into it they would be there
    twice, and compile slowly.
    """

    def of_weights(variables: Any, *rest: Array) -> Array:
        return fn(dataclasses.replace(network, variables=variables), *rest)

    if isinstance(network, ClipModel):
        return functools.partial(jax.jit(of_weights), network.variables)
    return jax.jit(functools.partial(fn, network))


def probabilities(network: Any) -> Callable[[Array], Array]:
    """Clips (B, t, h, w, c) -> probabilities (B, C), compiled; the same function in each call.

    By softmax; of a network with a single logit by its sigmoid.
    """
    return _probabilities(Same(network))


@functools.lru_cache(maxsize=16)
def _probabilities(same: Same) -> Callable[[Array], Array]:
    def fn(network: Any, clips: Array) -> Array:
        logits = jax.vmap(network.logits)(clips)
        return jax.nn.sigmoid(logits) if logits.shape[-1] == 1 else jax.nn.softmax(logits)

    return program(same.network, fn)
