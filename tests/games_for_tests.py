"""Small games with known tables, and models made on the spot."""

import jax
import jax.numpy as jnp
import numpy as np

import esv_jax as ej
from esv_jax.estimators.surrogate_plan import words_of
from esv_jax.explanations import attribute
from esv_jax.games.grouped import ScoreTable as TableGame  # noqa: F401  # its x only says how many elements
from esv_jax.games.scoring import memory_of

SEED = words_of(jax.random.key(1))  # of plans made on the host


def steps(estimator, game, x, prior, key=None, plan=None, length=None):
    """The three steps of an explanation, without the checks of `explain`."""
    return attribute(estimator, game, jnp.asarray(x), jnp.asarray(prior), key, plan, length)


def n_programs(game, name):
    """Shapes that the program of that name has been compiled for."""
    program = memory_of(game).get(name)
    return 0 if program is None else program._cache_size()


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
