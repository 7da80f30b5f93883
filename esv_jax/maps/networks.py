"""Networks as compiled functions of clips."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax
from jax import Array

from esv_jax.checks import message
from esv_jax.models.clip_model import ClipModel


class Network(Protocol):
    """Protocol of models for maps: a `ClipModel`, or any object with logits.

    LRP uses its `bounds`, Grad-CAM its Linen `module` and `variables`, where there are any.
    """

    def logits(self, clip: Array) -> Array:
        """Logits (C,) of one clip (t, h, w, c), in JAX."""


@runtime_checkable
class BoundedNetwork(Protocol):
    """A network with the lowest and the highest value of its clips by channel."""

    bounds: tuple[Array, Array]


@runtime_checkable
class LinenNetwork(Protocol):
    """A network whose Linen module maps clips (1, t, h, w, c) to logits (1, C)."""

    module: nn.Module
    variables: Mapping[str, Any]


def expect_network(network: object) -> None:
    """Raise TypeError for an object without logits."""
    if not callable(getattr(network, "logits", None)):
        way_out = "Give a ClipModel, or an object with a function logits(clip) -> (C,)."
        raise TypeError(message("network", "one with logits", type(network).__name__, way_out))


class ByIdentity:
    """A network that is equal to itself only, as a key of caches."""

    def __init__(self, network: Network) -> None:
        self.network = network

    def __hash__(self) -> int:
        return id(self.network)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByIdentity) and other.network is self.network


def compile_with_network(network: Network, fn: Callable[..., Array]) -> Callable[..., Array]:
    """The compiled function (...) -> fn(network, ...).

    The weights of a `ClipModel` are arguments of the program: as constants they would be stored
    twice and compile slowly.
    """
    if not isinstance(network, ClipModel):
        return jax.jit(functools.partial(fn, network))

    def with_weights(variables: Mapping[str, Any], *rest: Array) -> Array:
        return fn(dataclasses.replace(network, variables=variables), *rest)

    return functools.partial(jax.jit(with_weights), network.variables)


def probabilities(network: Network) -> Callable[[Array], Array]:
    """Clips (B, t, h, w, c) -> probabilities (B, C), compiled; one function object per network.

    By softmax, or by the sigmoid for a network with a single logit.
    """
    return _probabilities(ByIdentity(network))


@functools.lru_cache(maxsize=16)
def _probabilities(key: ByIdentity) -> Callable[[Array], Array]:
    def fn(network: Network, clips: Array) -> Array:
        logits = jax.vmap(network.logits)(clips)
        return jax.nn.sigmoid(logits) if logits.shape[-1] == 1 else jax.nn.softmax(logits)

    return compile_with_network(key.network, fn)
