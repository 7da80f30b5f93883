"""Small games with known tables, and models made on the spot."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

import esv_jax as ej
from esv_jax.games import Cost, fold_rows, sample_rows
from esv_jax.records import register_record, static_field
from esv_jax.subsequences.samples import count_distinct


@register_record
@dataclasses.dataclass(frozen=True)
class TableGame:
    """A game given by its scores, (2**n, C); row = code. x only says how many elements."""

    table: Any
    link: str = static_field(default="identity")

    def check(self, x):
        assert 2 ** x.shape[0] == self.table.shape[0]

    def dtype(self, x):
        return self.table.dtype

    def n_classes(self, x):
        return self.table.shape[1]

    def _rows(self, member):
        bits = jnp.asarray(2 ** np.arange(member.shape[1]), jnp.int32)
        return self.table[(member.astype(jnp.int32) * bits[None, :]).sum(1)]

    def fold_lattice(self, x, lattice, visit, carry):
        return fold_rows(lattice, self._rows, visit, carry)

    def sample_logits(self, x, samples, unseen):
        return sample_rows(samples, self._rows)

    def lattice_cost(self, x, lattice):
        return Cost(2**lattice.n, 2**lattice.n - 1, 1, None)

    def sample_cost(self, x, m):
        return Cost(m, m, 1, None)

    def n_evaluations(self, samples):
        return count_distinct(samples)


def random_heads(rng, n_max, d=3, h=5, c=4, n_hidden=0):
    """Head dicts in float64, large enough that scores differ."""

    def weights(*shape):
        return rng.normal(size=shape) * 1.5 / np.sqrt(shape[0] if len(shape) > 1 else 1)

    return [
        {
            "w1": weights(s * d, h),
            "b1": weights(h) * 0.3,
            "w2": weights(h, c) * 2,
            "b2": weights(c) * 0.3,
            "hidden": [{"w": weights(h, h), "b": weights(h) * 0.3} for _ in range(n_hidden)],
        }
        for s in range(1, n_max + 1)
    ]


def as_float32(heads):
    return [
        {
            k: [{a: np.float32(b) for a, b in layer.items()} for layer in v]
            if k == "hidden"
            else np.float32(v)
            for k, v in head.items()
        }
        for head in heads
    ]


def random_prior(rng, c):
    prior = rng.uniform(0.5, 1.5, size=c)
    return prior / prior.sum()


def multi_scale_case(rng, n, n_max, c=4, d=3, n_hidden=0):
    """(game, x, prior, heads): arrays of the game in JAX's default precision."""
    heads = random_heads(rng, n_max, d=d, c=c, n_hidden=n_hidden)
    game = ej.MultiScale(ej.models.stack_heads(heads))
    return game, rng.normal(size=(n, d)), random_prior(rng, c), heads
