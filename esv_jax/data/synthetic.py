"""Synthetic sequences whose classes differ only in the order of events, with ground truth.

The elements that are evidence of the class are known, so that attributions can be tested.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import numpy as np

from esv_jax.checks import expect, expect_int, expect_key

_EVENT_NAMES = (
    *("circle", "square", "triangle", "star", "cross", "ring"),
    *("heart", "arrow", "diamond", "crescent", "spiral", "wave"),
)
_N_BACKGROUNDS = 4


@dataclass(frozen=True, eq=False)
class SyntheticSequences:
    """Sequences of events with ground truth.

    Attributes:
      features: (V, n, D) float32; elements from `lengths[v]` on are 0.
      lengths: number of elements, (V,) int64.
      labels: index into `class_names`, (V,) int64. Class 2p + 1 is class 2p reversed.
      class_names: C names such as "circle then square".
      events: index into `event_names` of each element, (V, n) int64; -1 for background and
        padding.
      event_names: in the order of their prototypes.
    """

    features: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    events: np.ndarray
    event_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def informative(self) -> np.ndarray:
        """Mask of elements that are evidence of the class, (V, n) bool."""
        return self.events >= 0

    @property
    def mask(self) -> np.ndarray:
        """Mask of elements, (V, n) bool; False for padding."""
        return np.arange(self.events.shape[1])[None] < self.lengths[:, None]


def temporal_order(
    n_sequences: int,
    *,
    key: jax.Array,
    n: int = 8,
    min_length: int | None = None,
    n_pairs: int = 2,
    n_events: int = 2,
    feature_dim: int = 16,
    noise: float = 0.3,
    world: int = 0,
) -> SyntheticSequences:
    """Noisy sequences of events and background whose classes differ only in the order of events.

    Class 2p shows the events p, p + 1, .., p + n_events - 1 in this order, class 2p + 1 in reverse,
    at uniformly random positions; every other element shows one of four backgrounds that all
    classes share. Only a model of order can tell the two classes apart. Element i is

        features[v, i] = prototype[event or background of i] + noise * e,    e ~ N(0, 1)

    in each coordinate. Prototypes are random directions of norm sqrt(D). They depend on `world` and
    sizes alone: training and test data are two keys in one world.

    Args:
      n_sequences: V, >= 1. Classes are balanced: their counts differ by at most one.
      key: typed PRNG key, consumed.
      n: number of elements of the longest sequence, >= n_events.
      min_length: None: every length is n. Otherwise lengths are uniform in min_length..n, with
        n_events <= min_length <= n.
      n_pairs: pairs of classes, C = 2 * n_pairs; neighbouring pairs share n_events - 1 events.
      n_events: events per sequence, >= 2; there are n_pairs + n_events - 1 <= 12 kinds of event.
      feature_dim: D, >= 1. Below about 8, prototypes become similar.
      noise: standard deviation, >= 0.
      world: seed of the prototypes, >= 0.
    Returns:
      `SyntheticSequences`; exactly `n_events` elements of each sequence are informative.
    Raises:
      TypeError: a size that is not an integer, a key that is not typed.
      ValueError: a size out of range, noise negative or not finite.
    Cost: V * n * D normal draws.
    """
    n_sequences = expect_int("n_sequences", n_sequences, minimum=1)
    key = expect_key("key", key)
    n_pairs = expect_int("n_pairs", n_pairs, minimum=1)
    n_events = expect_int("n_events", n_events, minimum=2)
    n = expect_int("n", n, minimum=n_events, way_out="Every event needs an element.")
    feature_dim = expect_int("feature_dim", feature_dim, minimum=1)
    world = expect_int("world", world, minimum=0)
    least = n if min_length is None else expect_int("min_length", min_length, minimum=n_events)
    expect(least <= n, "min_length", f"at most n = {n}", least)
    expect(0 <= noise < np.inf, "noise", "a standard deviation of 0 or more", noise)
    n_types = n_pairs + n_events - 1
    expected = f"n_pairs + n_events - 1 <= {len(_EVENT_NAMES)} events"
    fits = n_types <= len(_EVENT_NAMES)
    expect(fits, "n_pairs", expected, n_types, "Lower one of the two.")

    label_key, length_key, position_key, background_key, noise_key = jax.random.split(key, 5)
    forward = np.arange(n_pairs)[:, None] + np.arange(n_events)  # (n_pairs, n_events)
    orders = np.stack([forward, forward[:, ::-1]], axis=1).reshape(-1, n_events)  # (C, n_events)
    labels = _numpy(jax.random.permutation(label_key, n_sequences)) % len(orders)
    lengths = _numpy(jax.random.randint(length_key, (n_sequences,), least, n + 1))

    mask = np.arange(n)[None] < lengths[:, None]  # (V, n)
    # Drawn along one axis, which compiles several times faster.
    draws = np.asarray(jax.random.uniform(position_key, (n_sequences * n,))).reshape(-1, n)
    ranked = np.argsort(np.where(mask, draws, np.inf), axis=1)  # padding comes last
    positions = np.sort(ranked[:, :n_events], axis=1)  # (V, n_events)
    events = np.full((n_sequences, n), -1, dtype=np.int64)
    np.put_along_axis(events, positions, orders[labels], axis=1)

    background = _numpy(jax.random.randint(background_key, (n_sequences * n,), 0, _N_BACKGROUNDS))
    shown = np.where(events >= 0, events, n_types + background.reshape(-1, n))  # (V, n)
    # Prototypes of events, then of backgrounds.
    prototypes = _normal(jax.random.key(world), (n_types + _N_BACKGROUNDS, feature_dim))
    norms = np.linalg.norm(prototypes, axis=1, keepdims=True)
    features = (prototypes * np.sqrt(np.float32(feature_dim)) / norms)[shown]  # (V, n, D)
    features += np.float32(noise) * _normal(noise_key, features.shape)
    names = _EVENT_NAMES[:n_types]
    return SyntheticSequences(
        features=np.where(mask[..., None], features, np.float32(0)),
        lengths=lengths,
        labels=labels,
        class_names=tuple(" then ".join(names[event] for event in order) for order in orders),
        events=events,
        event_names=names,
    )


def _numpy(values: jax.Array) -> np.ndarray:
    return np.asarray(values).astype(np.int64)


def _normal(key: jax.Array, shape: tuple[int, ...]) -> np.ndarray:
    """Normal draws in float32."""
    return np.array(jax.random.normal(key, (math.prod(shape),), "f4")).reshape(shape)
