import jax
import jax.numpy as jnp
import numpy as np
import pytest

import esv_jax as ej
from esv_jax.batches import block_program
from esv_jax.games.scoring import score_rows
from esv_jax.subsequences.lattice import make_lattice
from tests.games_for_tests import multi_scale_case, n_programs, random_heads


@pytest.fixture
def case(rng):
    game, _, prior, _ = multi_scale_case(rng, 4, 3)
    lengths = np.array([5, 2, 9, 5, 1, 9, 7])
    xs = rng.normal(size=(7, 9, 3)).astype(np.float32)
    for x, n in zip(xs, lengths, strict=True):
        x[n:] = np.nan  # padding may hold anything
    return game, xs, lengths, prior


def test_a_batch_equals_single_explanations(case):
    game, xs, lengths, prior = case
    batch = ej.explain_batch(game, xs, lengths, prior=prior, marginals=True)
    assert batch.exact
    assert len(batch) == 7
    for i, n in enumerate(lengths):
        alone = ej.explain(game, xs[i, :n], prior=prior)
        one = batch[i]
        assert one.n == n
        for name in ("values", "scores", "marginals"):
            np.testing.assert_allclose(getattr(one, name), getattr(alone, name), atol=1e-6)
        assert int(one.n_evaluations) == int(alone.n_evaluations)
        assert not np.asarray(batch.values[i, n:]).any()
    assert not np.asarray(batch.distracting(0))[1, 2:].any()


@pytest.mark.parametrize("estimator", [ej.Exact(), ej.Constructive(6, 2)], ids=["exact", "sampled"])
def test_results_are_independent_of_batch_composition(case, estimator):
    """Bit for bit, whatever the batch."""
    game, xs, lengths, prior = case
    key, uids = jax.random.key(0), list("abcdefg")

    def run(rows):
        names = [uids[i] for i in rows]
        settings = {"prior": prior, "estimator": estimator, "key": key, "uids": names}
        return ej.explain_batch(game, xs[rows], lengths[rows], **settings)

    whole = run(np.arange(7))
    for rows in (np.array([6, 2, 0]), np.array([3]), np.random.default_rng(0).permutation(7)):
        part = run(rows)
        for k, i in enumerate(rows):
            np.testing.assert_array_equal(part[k].values, whole[int(i)].values)
            np.testing.assert_array_equal(part[k].scores, whole[int(i)].scores)


def test_a_list_carries_its_lengths(case):
    game, xs, lengths, prior = case
    padded = ej.explain_batch(game, xs, lengths, prior=prior)
    listed = ej.explain_batch(game, [x[:n] for x, n in zip(xs, lengths, strict=True)], prior=prior)
    np.testing.assert_array_equal(listed.values, padded.values)
    np.testing.assert_array_equal(listed.lengths, lengths)
    with pytest.raises(ValueError, match=r"xs\[1\]: expected shape \(n, 3\) like the first"):
        ej.explain_batch(game, [xs[0, :2], xs[1, :2, :2]], prior=prior)
    with pytest.raises(ValueError, match=r"xs\[1\]: expected at least one element"):
        ej.explain_batch(game, [xs[0, :2], xs[1, :0]], prior=prior)
    with pytest.raises(ValueError, match="xs: expected at least one sequence"):
        ej.explain_batch(game, [], prior=prior)


def test_many_of_one_length_are_independent_of_batch_composition(rng):
    game, _, prior, _ = multi_scale_case(rng, 4, 3)
    xs = rng.normal(size=(70, 6, 3)).astype(np.float32)
    whole = ej.explain_batch(game, xs, prior=prior)
    shuffled = rng.permutation(70)
    again = ej.explain_batch(game, xs[shuffled], prior=prior)
    np.testing.assert_array_equal(again.values, np.asarray(whole.values)[shuffled])
    few = ej.explain_batch(game, xs[:3], prior=prior)
    np.testing.assert_array_equal(few.values, np.asarray(whole.values)[:3])


def test_sampled_sequences_use_the_key_of_their_uid(case):
    game, xs, lengths, prior = case
    estimator, key = ej.Constructive(6, 2), jax.random.key(5)
    batch = ej.explain_batch(
        game, xs, lengths, prior=prior, estimator=estimator, key=key, uids=list("abcdefg")
    )
    for i in (0, 2, 4):
        own = ej.video_key(key, "abcdefg"[i])
        x = xs[i, : lengths[i]]
        alone = ej.explain(game, x, prior=prior, estimator=estimator, key=own)
        np.testing.assert_allclose(batch[i].values, alone.values, atol=1e-6)
        np.testing.assert_allclose(batch[i].std_error, alone.std_error, atol=1e-6)
        np.testing.assert_array_equal(batch[i].coverage, alone.coverage)
        assert int(batch[i].n_evaluations) == int(alone.n_evaluations)


def test_default_uids_are_content_digests(case):
    game, xs, lengths, prior = case
    estimator, key = ej.Constructive(6, 2), jax.random.key(5)

    def run(rows):
        return ej.explain_batch(
            game, xs[rows], lengths[rows], prior=prior, estimator=estimator, key=key
        )

    np.testing.assert_array_equal(run([2, 0])[1].values, run([0])[0].values)


def test_auto_is_chosen_per_length(rng):
    game, _, prior, _ = multi_scale_case(rng, 4, 2)
    xs = rng.normal(size=(3, 26, 3)).astype(np.float32)
    batch = ej.explain_batch(game, xs, [4, 26, 8], prior=prior, key=jax.random.key(0))
    assert not batch.exact
    std_error = np.asarray(batch.std_error)
    assert not std_error[[0, 2]].any()
    assert std_error[1].any()


def test_compiled_programs_are_few(rng):
    game, _, prior, _ = multi_scale_case(rng, 4, 2, d=7)  # shapes of no other test
    xs = rng.normal(size=(12, 32, 7)).astype(np.float32)
    estimator = ej.Constructive(3, 1)
    name = ("block", estimator, False)
    before = n_programs(game, name)
    ej.explain_batch(
        game, xs, np.arange(20, 32), prior=prior, estimator=estimator, key=jax.random.key(0)
    )
    assert n_programs(game, name) - before == 2  # 24 and 32
    exact = ("block", ej.Exact(), False)
    before = n_programs(game, exact)
    for _ in range(3):
        ej.explain_batch(game, xs[:, :5], [3, 4, 5] * 4, prior=prior, estimator=ej.Exact())
    assert n_programs(game, exact) - before == 3


def test_a_single_batch_axis_is_required(case):
    game, xs, lengths, prior = case
    with pytest.raises(ValueError, match=r"xs: expected shape .* For one sequence, use explain"):
        ej.explain_batch(game, xs[0, 0], prior=prior)
    with pytest.raises(ValueError, match=r"with the heads' D = 3"):
        ej.explain_batch(game, xs[:, :, :2], lengths, prior=prior)


@pytest.mark.parametrize(
    ("lengths", "error", "match"),
    [
        ([1, 2], ValueError, r"lengths: expected shape \(B,\) = \(7,\)"),
        ([5, 2, 9, 5, 0, 9, 7], ValueError, r"lengths\[4\]: expected 1..9"),
        ([5, 2, 10, 5, 1, 9, 7], ValueError, r"lengths\[2\]: expected 1..9, el.* in xs, got 10"),
        ([5.0] * 7, TypeError, "lengths: expected integers"),
        ([5, 4, 9, 5, 1, 9, 7], ValueError, r"xs\[1\]: expected finite values, got NaN .* 2"),
    ],
)
def test_bad_lengths(case, lengths, error, match):
    game, xs, _, prior = case
    with pytest.raises(error, match=match):
        ej.explain_batch(game, xs, np.array(lengths), prior=prior)


def test_bad_names_and_keys(case):
    game, xs, lengths, prior = case
    with pytest.raises(ValueError, match="uids: expected 7 names, got 1"):
        ej.explain_batch(game, xs, lengths, prior=prior, uids=["a"])
    with pytest.raises(ValueError, match="key: expected a PRNG key"):
        ej.explain_batch(game, xs, lengths, prior=prior, estimator=ej.Constructive())


def test_a_batch_is_indexed_like_a_list(case):
    game, xs, lengths, prior = case
    batch = ej.explain_batch(game, xs, lengths, prior=prior)
    np.testing.assert_array_equal(batch[-1].values, batch[6].values)
    with pytest.raises(IndexError):
        batch[7]
    with pytest.raises(TypeError, match="expected a batch"):
        batch[0][0]
    assert jnp.ndim(batch.evidential_score(1)) == 1


@pytest.mark.slow
def test_tolerance_per_sequence(rng):
    game, _, prior, _ = multi_scale_case(rng, 12, 3)
    xs = [rng.normal(size=(n, game.heads.w1.shape[2])) for n in (5, 12, 12)]
    xs[2] *= 0.1  # hardly anything to estimate
    key, uids = jax.random.key(0), ["a", "b", "c"]
    settings = {"prior": prior, "estimator": ej.Surrogate(16), "key": key}
    first = ej.explain_batch(game, xs, uids=uids, **settings)
    width = np.asarray(first.half_width()).max((1, 2))
    tolerance = float((width[1] + width[2]) / 2)
    assert width[2] < tolerance < width[1]

    batch = ej.explain_batch(game, xs, uids=uids, tolerance=tolerance, **settings)
    assert np.asarray(batch.within_tolerance).all()
    assert np.asarray(batch.half_width()).max() <= tolerance
    again = np.asarray(batch.n_evaluations) > np.asarray(first.n_evaluations)
    np.testing.assert_array_equal(again, [False, True, False])
    np.testing.assert_array_equal(batch[2].values, first[2].values)
    assert bool(batch[1].within_tolerance)
    alone = ej.explain_batch(game, [xs[1]], uids=["b"], tolerance=tolerance, **settings)
    np.testing.assert_array_equal(alone[0].values, batch[1].values)
    limits = {"tolerance": tolerance, "max_evaluations": 60}
    stopped = ej.explain_batch(game, xs, uids=uids, **limits, **settings)
    np.testing.assert_array_equal(stopped.within_tolerance, [True, False, True])
    with pytest.raises(ValueError, match="tolerance: expected a half width > 0"):
        ej.explain_batch(game, xs, tolerance=0, **settings)


@pytest.mark.parametrize(
    ("n", "n_max", "n_hidden"),
    [(1, 3, 0), (4, 4, 1), (7, 3, 2), pytest.param(9, 12, 0, marks=pytest.mark.slow)],
)
def test_side_by_side_equals_vmap(rng, x64, n, n_max, n_hidden):
    """Whole lattices at once against one sequence at a time."""
    heads = ej.models.stack_heads(random_heads(rng, n_max, n_hidden=n_hidden))
    game, xs = ej.MultiScale(heads), jnp.asarray(rng.normal(size=(5, n, 3)))
    prior = jnp.asarray(rng.dirichlet(np.ones(4)))
    run = jax.jit(block_program(ej.Exact(), True))
    together = run(game, xs, prior, None, jnp.full(5, n), None)
    for i in range(5):
        alone = ej.explain(game, xs[i], prior=prior)
        for name in ("values", "scores", "marginals", "prior"):
            np.testing.assert_allclose(
                getattr(together, name)[i], getattr(alone, name), rtol=0, atol=1e-13
            )
        assert int(together.n_evaluations[i]) == alone.n_evaluations
    assert isinstance(score_rows(game, xs[0], make_lattice(n)), list)
    assert callable(score_rows(game, jnp.zeros((11, 3)), make_lattice(11)))  # one by one
