"""Baselines by position and from few scores of the model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import esv_jax as ej
from tests.games_for_tests import TableGame, multi_scale_case, random_prior


def table_case(rng, n, c=3):
    """(game, x, prior, score): `score` looks a subsequence up by its elements."""
    table = rng.normal(size=(2**n, c)).astype(np.float32)

    def score(elements):
        return table[sum(1 << i for i in elements)]

    return TableGame(jnp.asarray(table)), np.zeros((n, 1), np.float32), table[0], score


def occlusion_twin(score, n, width):
    """Window after window, element after element."""
    whole = score(range(n))
    values = []
    for i in range(n):
        drops = [
            whole - score([j for j in range(n) if not start <= j < start + width])
            for start in range(n - width + 1)
            if start <= i < start + width
        ]
        values.append(np.mean(drops, axis=0))
    return np.array(values)


# By position


def test_positions_by_hand():
    assert ej.baselines.centre_out(5).tolist() == pytest.approx([0.2, 0.6, 1.0, 0.6, 0.2])
    assert ej.baselines.edges_in(5).tolist() == pytest.approx([1.0, 0.6, 0.2, 0.6, 1.0])
    assert ej.baselines.centre_out(4).tolist() == pytest.approx([0.25, 0.75, 0.75, 0.25])
    assert ej.baselines.edges_in(4).tolist() == pytest.approx([1.0, 0.5, 0.5, 1.0])
    for baseline in (ej.baselines.centre_out, ej.baselines.edges_in):
        assert baseline(1).tolist() == [1.0]


@pytest.mark.parametrize("n", [2, 3, 8, 9])
def test_positions_are_symmetric_and_opposite(n):
    centre, edges = (np.asarray(f(n)) for f in (ej.baselines.centre_out, ej.baselines.edges_in))
    np.testing.assert_allclose(centre, centre[::-1])
    np.testing.assert_allclose(centre + edges, 1 + 1 / n, rtol=1e-6)
    half = centre[: (n + 1) // 2]
    assert (np.diff(half) > 0).all() and centre.max() <= 1 and centre.min() > 0


@pytest.mark.parametrize("name", ["centre_out", "edges_in"])
def test_position_baselines_refuse_bad_input(name):
    with pytest.raises(ValueError, match="n: expected an integer >= 1, got 0"):
        getattr(ej.baselines, name)(0)
    with pytest.raises(TypeError, match="n: expected an integer"):
        getattr(ej.baselines, name)(2.0)


# By scores of the model


@pytest.mark.parametrize("n", [1, 2, 5])
def test_values_of_a_table_game_equal_plain_loops(rng, n):
    game, x, prior, score = table_case(rng, n)
    for width in range(1, n + 1):
        values = ej.baselines.occlusion(game, x, prior=prior, width=width)
        np.testing.assert_allclose(values, occlusion_twin(score, n, width), atol=2e-6)
    without = [score(range(n)) - score([j for j in range(n) if j != i]) for i in range(n)]
    np.testing.assert_allclose(ej.baselines.leave_one_out(game, x, prior=prior), without, atol=1e-6)
    alone = [score([i]) - prior for i in range(n)]
    np.testing.assert_allclose(ej.baselines.leave_one_in(game, x, prior=prior), alone, atol=1e-6)


def games(rng, n):
    """(game, x, prior) of every kind."""
    c, d = 4, 3
    multi, x, prior, _ = multi_scale_case(rng, n, 3, c=c, d=d)
    x = x.astype(np.float32)
    w = jnp.asarray(rng.normal(size=(d, c)), jnp.float32)

    def pooled(features, mask):
        seen = features @ w
        most = jnp.where(mask[:, None], seen, -jnp.inf).max(0)
        return jnp.where(mask[:, None], jnp.tanh(seen), 0).sum(0) * most

    def probabilities(clips):
        logits = clips.mean(1) @ np.asarray(w) * clips.shape[1]
        e = np.exp(logits - logits.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    yield multi, x, prior
    yield ej.VariableLength(pooled), x, prior
    yield ej.AverageConsensus(w, jnp.zeros(c, jnp.float32), input_relu=True), x, prior
    yield ej.BlackBox(probabilities), x, prior


@pytest.mark.parametrize("which", range(4))
def test_values_of_every_game_equal_explained_scores(rng, which):
    """The game's own score of a part is `explain`'s score of that part as a sequence."""
    n = 5
    game, x, prior = list(games(rng, n))[which]

    def score(elements):
        elements = list(elements)
        return np.asarray(ej.explain(game, x[elements], prior=prior).scores)

    for width in (1, 2):
        values = ej.baselines.occlusion(game, x, prior=prior, width=width)
        np.testing.assert_allclose(values, occlusion_twin(score, n, width), atol=2e-5)
    alone = [score([i]) - prior for i in range(n)]
    np.testing.assert_allclose(ej.baselines.leave_one_in(game, x, prior=prior), alone, atol=2e-5)


def test_an_additive_game_has_equal_values_by_all_methods(rng):
    """Leave-one-out = leave-one-in = ESV; a window is the sum of its elements."""
    n, worth = 5, rng.normal(size=(5, 2)).astype(np.float32)
    member = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    table = (member @ worth + 0.1).astype(np.float32)
    game, x, prior = TableGame(jnp.asarray(table)), np.zeros((n, 1), np.float32), table[0]
    esv = ej.explain(game, x, prior=prior).values
    for values in (esv, ej.baselines.leave_one_out(game, x, prior=prior)):
        np.testing.assert_allclose(values, worth, atol=2e-6)
    np.testing.assert_allclose(ej.baselines.leave_one_in(game, x, prior=prior), worth, atol=2e-6)
    whole = ej.baselines.occlusion(game, x, prior=prior, width=n)
    np.testing.assert_allclose(whole, np.tile(worth.sum(0), (n, 1)), atol=5e-6)


def test_baselines_under_jit_and_vmap(rng):
    n = 4
    game, _, prior, _ = multi_scale_case(rng, n, 3)
    xs = rng.normal(size=(3, n, 3)).astype(np.float32)
    prior = jnp.float32(prior)
    for f in (
        ej.baselines.leave_one_out,
        ej.baselines.leave_one_in,
        functools.partial(ej.baselines.occlusion, width=2),
    ):
        batched = jax.jit(jax.vmap(lambda x, f=f: f(game, x, prior=prior)))(xs)
        each = [f(game, x, prior=prior) for x in xs]
        np.testing.assert_allclose(batched, each, atol=1e-6)


def test_a_black_box_evaluates_each_subsequence_once(rng):
    game, x, prior = list(games(rng, 6))[3]
    ej.baselines.leave_one_out(game, x, prior=prior)
    assert game.counts.clips == 7 + 1  # the whole one twice and six without one
    ej.baselines.leave_one_in(game, x, prior=prior)
    assert game.counts.clips == 8 + 8  # the next call evaluates all anew


def test_a_black_box_takes_uint8_frames_and_raises_its_own_errors(rng):
    frames = rng.integers(0, 255, size=(4, 2, 2, 3), dtype=np.uint8)

    def scores(clips):
        assert clips.dtype == np.uint8
        share = clips.mean((1, 2, 3, 4)) / 255
        return np.stack([share, 1 - share], 1)

    values = ej.baselines.leave_one_in(ej.BlackBox(scores), frames, prior=np.float32([0.5, 0.5]))
    expected = frames.mean((1, 2, 3)) / 255 - 0.5
    np.testing.assert_allclose(values[:, 0], expected, atol=1e-6)

    def failing(clips):
        if clips.shape[1] < 4:
            raise RuntimeError("too short for me")
        return scores(clips)

    with pytest.raises(ValueError, match=r"RuntimeError \(too short for me\).*removal='freeze'"):
        ej.baselines.leave_one_out(ej.BlackBox(failing), frames, prior=np.float32([0.5, 0.5]))


def test_long_sequences(rng):
    """A `MultiScale` game scores single elements of long sequences only."""
    n = 30
    game, x, prior, _ = multi_scale_case(rng, n, 3)
    with pytest.raises(ValueError, match=r"x: expected at most 20 elements.*segment_centres"):
        ej.baselines.leave_one_out(game, x, prior=prior)
    values = ej.baselines.leave_one_in(game, x, prior=prior)
    few = ej.baselines.leave_one_in(game, x[7:9], prior=prior)
    np.testing.assert_allclose(values[7:9], few, atol=1e-6)
    rowwise = list(games(rng, n))[2]
    assert ej.baselines.leave_one_out(*rowwise[:2], prior=rowwise[2]).shape == (n, 4)


def test_baselines_refuse_bad_input(rng):
    game, x, prior, _ = multi_scale_case(rng, 4, 3)
    cases = [
        ((x[:0], prior), r"x: expected at least one element \(n >= 1\)"),
        ((x * np.nan, prior), "x: expected finite values"),
        ((x[:, :2], prior), "x: expected shape"),
        ((x, prior[:2]), "prior: expected shape"),
        ((x, prior * np.inf), "prior: expected finite values"),
        ((x, 2 * prior), "prior: expected a sum of 1"),
    ]
    for args, match in cases:
        for f in (ej.baselines.leave_one_out, ej.baselines.leave_one_in):
            with pytest.raises(ValueError, match=match):
                f(game, args[0], prior=args[1])
    with pytest.raises(TypeError, match="x: expected a floating-point array"):
        ej.baselines.leave_one_out(game, x.astype(int), prior=prior)
    for width, kind, match in (
        (0, ValueError, "width: expected an integer >= 1"),
        (5, ValueError, "width: expected at most the 4 elements"),
        (1.5, TypeError, "width: expected an integer"),
    ):
        with pytest.raises(kind, match=match):
            ej.baselines.occlusion(game, x, prior=prior, width=width)


def test_a_single_element(rng):
    """Leave-one-out of a single element leaves the prior."""
    game, x, _, _ = multi_scale_case(rng, 1, 2)
    prior = random_prior(rng, 4)
    out, alone = (
        f(game, x, prior=prior) for f in (ej.baselines.leave_one_out, ej.baselines.leave_one_in)
    )
    np.testing.assert_allclose(out, alone, atol=1e-7)
    np.testing.assert_allclose(out, ej.explain(game, x, prior=prior).values, atol=1e-6)
