"""Games with known ESVs: heads combined by scale, and networks that score each subsequence."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import esv_jax as ej
from esv_jax.games import SubsetGame
from experiments.sequences import elements_of

_N_MAX, _D, _H, _C = 8, 32, 64, 20  # of the rough heads, as of the trained ones
_HIDDEN = 32  # width of the networks
_TILE = 4096  # subsequences in a call of a network
VOWELS = ("JapaneseVowels_TRAIN.ts", "JapaneseVowels_TEST.ts")


@dataclasses.dataclass(frozen=True)
class Case:
    """Sequences of one game with their ESVs.

    Attributes:
      name: key in the results. title: heading in tables and pictures.
      game: the game.
      xs: (B, n, D). prior: (C,).
      exact: (B, n, C) ESVs, or (B, n) where only those of `classes` are known.
      classes: (B,), the class whose errors are measured.
    """

    name: str
    title: str
    game: Any
    xs: np.ndarray
    prior: np.ndarray
    exact: np.ndarray
    classes: np.ndarray

    @property
    def n(self) -> int:
        """Elements per sequence."""
        return self.xs.shape[1]

    def of_class(self, values: np.ndarray) -> np.ndarray:
        """Each sequence's values (B, n) for its class, from (B, n, C)."""
        return values[np.arange(len(values)), :, self.classes]

    @property
    def target(self) -> np.ndarray:
        """ESVs (B, n) of `classes`."""
        return self.exact if self.exact.ndim == 2 else self.of_class(self.exact)

    @property
    def rowwise(self) -> bool:
        """True where the game scores each subsequence on its own."""
        return isinstance(self.game, SubsetGame)

    @property
    def n_pairs(self) -> int:
        """Pairs of a sequence and a class whose exact ESVs are known."""
        return self.exact.size // self.n

    def weights_digest(self) -> str:
        """SHA-256 of the game's weights: 64 hexadecimal digits."""
        digest = hashlib.sha256()
        for leaf in jax.tree.leaves(self.game):
            digest.update(f"{leaf.dtype}:{leaf.shape};".encode() + np.asarray(leaf).tobytes())
        return digest.hexdigest()


def _with_exact(
    name: str, title: str, game: Any, xs: np.ndarray, prior: Any, classes: Any = None
) -> Case:
    """A case with exact ESVs of all classes; `classes` are those of highest score by default."""
    exact = ej.explain_batch(game, xs, prior=prior, estimator=ej.Exact())
    classes = np.asarray(exact.scores).argmax(-1) if classes is None else classes
    return Case(name, title, game, xs, np.asarray(prior), np.asarray(exact.values), classes)


def trained_cases(path: Path, n_sequences: int, n_long: int) -> tuple[Case, Case]:
    """The stored temporal-order game at n = 16 and at n = 49 (long-run values)."""
    with np.load(path) as file:
        stored = dict(file)
    heads = [
        {name.lower(): stored[f"{name}_{s}"] for name in ("W1", "b1", "W2", "b2")}
        for s in range(1, int(stored["n_max"]) + 1)
    ]
    game = ej.MultiScale(ej.models.stack_heads(heads))

    def case(name: str, n: int, suffix: str, count: int) -> Case:
        xs, exact, labels = (stored[k + suffix][:count] for k in ("features", "esv", "labels"))
        return Case(name, f"temporal order, n = {n}", game, xs, stored["prior"], exact, labels)

    return case("temporal", 16, "", n_sequences), case("long", 49, "49", n_long)


def rough_case(n_sequences: int, seed: int, n: int = 16) -> Case:
    """Rough random heads on random features: a model of pairs fits them badly."""
    rng = np.random.default_rng([seed, 1])

    def normal(scale: float, *shape: int) -> np.ndarray:
        return (scale * rng.normal(size=shape)).astype(np.float32)

    heads = [
        {
            "w1": normal(2 / np.sqrt(s * _D), s * _D, _H),
            "b1": normal(0.3, _H),
            "w2": normal(3 / np.sqrt(_H), _H, _C),
            "b2": normal(0.3, _C),
        }
        for s in range(1, _N_MAX + 1)
    ]
    game = ej.MultiScale(ej.models.stack_heads(heads))
    xs, prior = normal(1, n_sequences, n, _D), np.full(_C, 1 / _C, np.float32)
    return _with_exact("rough", f"rough random heads, n = {n}", game, xs, prior)


def vowels_case(folder: Path, n_sequences: int, seed: int, max_epochs: int, n: int = 16) -> Case:
    """Heads trained on JapaneseVowels; evenly spaced test sequences of at least n elements."""
    train, test = (ej.data.read_ts(folder / name) for name in VOWELS)
    config = ej.models.TrainConfig(max_epochs=max_epochs, seed=seed)
    model = ej.models.train_heads(train.sequences, train.labels, len(train.class_names), config)
    rows = np.flatnonzero(test.lengths >= n)
    if n_sequences < len(rows):
        rows = rows[ej.data.segment_centres(len(rows), n_sequences)]
    sequences = [test.sequences[i] for i in rows]
    xs = np.stack([x[i] for x, i in zip(sequences, elements_of(sequences, n), strict=True)])
    game, labels = ej.MultiScale(model.heads), np.asarray(test.labels)[rows]
    return _with_exact("vowels", f"JapaneseVowels, n = {n}", game, xs, model.prior, labels)


def network_case(temporal: Case, seed: int) -> Case:
    """A random tanh network, mean-pooled over elements, on the features of another case."""
    game = _game(_mean_pooled, temporal.xs.shape[-1], len(temporal.prior), (1.0, 2.0, 4.0), seed)
    title = f"tanh network, n = {temporal.n}"
    return _with_exact("network", title, game, temporal.xs, temporal.prior)


def rough_network_case(n_sequences: int, seed: int, n: int = 16) -> Case:
    """A random max-pooled network on random features: far from additive."""
    game = _game(_max_pooled, _D, _C, (1.5, 1.5, 3.0), seed)
    xs = np.random.default_rng([seed, 3]).normal(size=(n_sequences, n, _D)).astype(np.float32)
    title, prior = f"rough max-pooled network, n = {n}", np.full(_C, 1 / _C, np.float32)
    return _with_exact("rough_network", title, game, xs, prior)


def _game(
    network: Callable[..., Array], d: int, c: int, gains: tuple[float, ...], seed: int
) -> ej.VariableLength:
    rng, widths = np.random.default_rng([seed, 2]), (d, _HIDDEN, _HIDDEN, c)
    weights = {
        name: (gains[k] * rng.normal(size=widths[k : k + 2]) / np.sqrt(widths[k])).astype(
            np.float32
        )
        for k, name in enumerate(("first", "second", "last"))
    }
    return ej.VariableLength(jax.tree_util.Partial(network, weights), batch_size=_TILE)


def _mean_pooled(weights: dict[str, Any], features: Array, mask: Array) -> Array:
    """Logits (C,) from features (n, D) and a mask of present elements (n,)."""
    present = mask.astype(features.dtype)
    pooled = (present @ jnp.tanh(features @ weights["first"])) / present.sum()
    return jnp.tanh(pooled @ weights["second"]) @ weights["last"]


def _max_pooled(weights: dict[str, Any], features: Array, mask: Array) -> Array:
    """Logits as `_mean_pooled`, with the maximum of hidden values over present elements."""
    hidden = jnp.tanh(features @ weights["first"])
    pooled = jnp.where(mask[:, None], hidden, -1).max(0)
    return jnp.tanh(pooled @ weights["second"]) @ weights["last"]
