"""Synthetic sequences whose classes differ by the order of events alone, with ground truth.

A few elements of a sequence show an event ("circle", "square", ...); the rest show background
that all classes share. Every class has a partner with the same events in reverse, so what a bag of
frames sees has one distribution for both, and only a model of order tells them apart. Which
elements carry the evidence is known, which makes attributions testable.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import numpy as np

from esv_jax.checks import expect, expect_int, expect_key, message

EVENT_NAMES = (
    "circle",
    "square",
    "triangle",
    "star",
    "cross",
    "ring",
    "heart",
    "arrow",
    "diamond",
    "crescent",
    "spiral",
    "wave",
)
N_BACKGROUNDS = 4


@dataclass(frozen=True, eq=False)
class SyntheticSequences:
    """Sequences that show events in an order, and the truth about them.

    Attributes:
      features: (V, n, D) float32; elements from `lengths[v]` on are 0.
      lengths: elements of each sequence, (V,) int64.
      labels: index into `class_names`, (V,) int64. Classes 2p and 2p + 1 are partners.
      class_names: C names such as "circle then square".
      events: index into `event_names` of what each element shows, (V, n) int64; -1 for
        background and past the end.
      event_names: names of the events, in the order of their prototypes.
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
        """Return whether an element carries evidence of the class, (V, n) bool."""
        return self.events >= 0

    @property
    def mask(self) -> np.ndarray:
        """Return whether an element is there, (V, n) bool; False on padding."""
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
    """Noisy sequences of events among background, labelled by the order of the events.

    Class 2p shows the events p, p + 1, .., p + n_events - 1 in this order, class 2p + 1 in reverse,
    at positions drawn uniformly; every other element shows one of four backgrounds. Element i is

        features[v, i] = prototype[what i shows] + noise * e,    e ~ N(0, 1) in each coordinate

    The prototypes are one-hot codes under a random projection, each scaled to norm sqrt(D), so a
    coordinate is about 1 in size. They depend on `world` and sizes alone: training and test data
    are two keys in one world.

    Args:
      n_sequences: V, at least 1. Classes are balanced: their counts differ by at most one.
      key: typed PRNG key, consumed. Same arguments, same data.
      n: elements of the longest sequence, at least `n_events`.
      min_length: None: every length is n. Otherwise lengths are drawn uniformly from
        min_length..n, with n_events <= min_length <= n.
      n_pairs: pairs of classes, C = 2 * n_pairs; neighbouring pairs share n_events - 1 events.
      n_events: events in a sequence, at least 2. There are n_pairs + n_events - 1 in the world,
        at most 12.
      feature_dim: D, at least 1. Below some 8, prototypes begin to look alike.
      noise: standard deviation of the noise, 0 or more.
      world: seed of the prototypes, 0 or more.
    Returns:
      `SyntheticSequences`; exactly `n_events` elements of each sequence are informative.
    Raises:
      TypeError: a size that is no integer, a key that is not typed.
      ValueError: a size out of its range, noise negative or not finite.
    Cost: V * n * D normal draws.
    """
    n_sequences = expect_int("n_sequences", n_sequences, minimum=1)
    key = expect_key("key", key)
    n_pairs = expect_int("n_pairs", n_pairs, minimum=1)
    n_events = expect_int("n_events", n_events, minimum=2)
    n = expect_int("n", n, minimum=n_events, way_out="Every event needs an element.")
    feature_dim = expect_int("feature_dim", feature_dim, minimum=1)
    world = expect_int("world", world, minimum=0)
    if min_length is None:
        min_length = n
    min_length = expect_int("min_length", min_length, minimum=n_events)
    expect(min_length <= n, "min_length", f"at most n = {n}", min_length)
    if not (np.isfinite(noise) and noise >= 0):
        raise ValueError(message("noise", "a standard deviation of 0 or more", noise))
    n_types = n_pairs + n_events - 1
    limit = f"n_pairs + n_events - 1 <= {len(EVENT_NAMES)} events"
    expect(n_types <= len(EVENT_NAMES), "n_pairs", limit, n_types, "Lower one of the two.")

    label_key, length_key, position_key, background_key, noise_key = jax.random.split(key, 5)
    forward = np.arange(n_pairs)[:, None] + np.arange(n_events)  # (n_pairs, n_events)
    orders = np.stack([forward, forward[:, ::-1]], axis=1).reshape(-1, n_events)  # (C, n_events)
    labels = _numpy(jax.random.permutation(label_key, n_sequences)) % len(orders)
    lengths = _numpy(jax.random.randint(length_key, (n_sequences,), min_length, n + 1))

    mask = np.arange(n)[None] < lengths[:, None]  # (V, n)
    # Random numbers are drawn as one axis, which compiles several times faster.
    draws = np.asarray(jax.random.uniform(position_key, (n_sequences * n,))).reshape(-1, n)
    ranked = np.argsort(np.where(mask, draws, np.inf), axis=1)  # elements that are there come first
    positions = np.sort(ranked[:, :n_events], axis=1)  # (V, n_events)
    events = np.full((n_sequences, n), -1, dtype=np.int64)
    np.put_along_axis(events, positions, orders[labels], axis=1)

    background = _numpy(jax.random.randint(background_key, (n_sequences * n,), 0, N_BACKGROUNDS))
    background = n_types + background.reshape(-1, n)
    shown = np.where(events >= 0, events, background)  # row of the prototype, (V, n)
    features = _prototypes(world, n_types + N_BACKGROUNDS, feature_dim)[shown]  # (V, n, D)
    draws = np.asarray(jax.random.normal(noise_key, (features.size,), "f4"))
    features += np.float32(noise) * draws.reshape(features.shape)
    names = EVENT_NAMES[:n_types]
    return SyntheticSequences(
        features=np.where(mask[..., None], features, np.float32(0)),
        lengths=lengths,
        labels=labels,
        class_names=tuple(" then ".join(names[event] for event in order) for order in orders),
        events=events,
        event_names=names,
    )


def _prototypes(world: int, n_prototypes: int, feature_dim: int) -> np.ndarray:
    """One row per event and background, (n_prototypes, D) float32, each of norm sqrt(D)."""
    drawn = jax.random.normal(jax.random.key(world), (n_prototypes * feature_dim,), "f4")
    rows = np.asarray(drawn).reshape(n_prototypes, feature_dim)
    return rows * np.sqrt(np.float32(feature_dim)) / np.linalg.norm(rows, axis=1, keepdims=True)


def _numpy(values: jax.Array) -> np.ndarray:
    return np.asarray(values).astype(np.int64)
