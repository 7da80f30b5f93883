"""Games against their plain twins, and against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import esv_jax as ej
from esv_jax.estimators.exact import scale_sums
from esv_jax.games.multi_scale import direct_logits, make_game
from esv_jax.games.protocol import Tile
from esv_jax.games.scoring import score_rows
from esv_jax.models.heads import TsnHead
from esv_jax.subsequences.lattice import make_lattice, recurrence_shares
from tests.games_for_tests import multi_scale_case, random_prior
from tests.reference import plain


@pytest.fixture(autouse=True)
def double(x64):
    """Twins are float64; so is everything here."""


def table_of(game, x, lattice):
    """Logits of all subsequences by code, gathered tile by tile."""

    def visit(tiles, tile):
        place, table = tiles
        table = jax.lax.dynamic_update_slice_in_dim(table, tile.table[None], place, 0)
        return place + 1, table

    @jax.jit
    def all_tiles(game, x):
        out = game.output(x)
        shape = (lattice.n_tiles, lattice.n_lows, lattice.tile_width, *out.shape)
        empty = jnp.zeros(shape, out.dtype)
        start = (jnp.zeros((), jnp.int32), empty)
        if lattice.n_top:
            return game.fold_lattice(x, lattice, visit, start)[1]
        logits = jnp.concatenate(game.all_logits(x[None], lattice))
        tile = Tile(logits, 0, jnp.zeros((1, 0), bool), jnp.ones(1, bool))
        return visit(start, tile)[1]

    tiles = all_tiles(game, x)
    table = np.zeros((2**lattice.n, *game.output(x).shape))
    codes = lattice.codes()
    table[codes[codes >= 0]] = np.asarray(tiles)[codes >= 0]
    return table


@pytest.mark.parametrize(
    ("n", "n_max", "n_hidden", "split"),
    [
        (1, 1, 0, ()),
        (1, 3, 0, ()),
        (5, 3, 0, ()),
        (5, 8, 1, ()),
        (6, 2, 2, (2, 3)),
        (6, 4, 0, (1, 1)),
        (6, 6, 0, (3, 7)),
        (7, 3, 1, (3, 2)),
        (7, 1, 0, (2, 4)),
    ],
)
def test_lattice_logits_equal_the_definition(rng, n, n_max, n_hidden, split):
    game, x, _, heads = multi_scale_case(rng, n, n_max, n_hidden=n_hidden)
    table = table_of(game, jnp.asarray(x), make_lattice(n, *split))
    for code in range(1, 2**n):
        expected = plain.multi_scale(heads, x, plain.elements_of(code, n))
        np.testing.assert_allclose(table[code], expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("n", "n_max"), [(1, 2), (4, 4), (5, 3), (6, 2)])
def test_recurrence_equals_the_definition(rng, n, n_max):
    game, x, _, heads = multi_scale_case(rng, n, n_max)
    whole = tuple(range(n))
    expected = plain.multi_scale(heads, x, whole)
    np.testing.assert_allclose(plain.multi_scale_recursive(heads, x, whole), expected, atol=1e-12)
    found = jax.jit(direct_logits)(game.heads, jnp.asarray(x))
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_shares_are_those_of_equation_9():
    """f^n = [own + (n - 1) mean of parents] / n up to n_max, the mean alone beyond."""
    s = np.arange(1, 9)
    own, parent = recurrence_shares(s, 5)
    np.testing.assert_allclose(own, [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 0, 0, 0])
    np.testing.assert_allclose(own + s * parent, 1)
    np.testing.assert_allclose((s * parent)[:5], [0, 1 / 2, 2 / 3, 3 / 4, 4 / 5])
    assert recurrence_shares(np.array(0), 5) == (0, 0)


@pytest.mark.parametrize("link", ["softmax", "identity"])
def test_values_are_shapley_values_of_the_definition(rng, link):
    n, n_max = 6, 3
    game, x, prior, heads = multi_scale_case(rng, n, n_max)
    game = ej.MultiScale(game.heads, link=link)
    after = plain.softmax if link == "softmax" else lambda logits: logits
    table = plain.table(lambda e: after(plain.multi_scale(heads, x, e)), prior, n)
    att = ej.explain(game, x, prior=prior)
    np.testing.assert_allclose(att.values, plain.shapley_by_weights(table), atol=1e-12)
    np.testing.assert_allclose(att.marginals, plain.marginals(table), atol=1e-12)
    np.testing.assert_allclose(att.scores, table[-1], atol=1e-12)


def as_fold(game, x, lattice):
    """The fold over the lattice's scores, also where one tile holds them."""
    scores = score_rows(game, x, lattice)
    if callable(scores):
        return scores
    tile = Tile(jnp.concatenate(scores)[:, None], 0, jnp.zeros((1, 0), bool), jnp.ones(1, bool))
    return lambda visit, carry: visit(carry, tile)


@pytest.mark.parametrize("split", [(1, 1), (2, 3), (4, 1), (4, 9), (7, 1)])
def test_every_split_gives_the_same_values(rng, split):
    game, x, prior, _ = multi_scale_case(rng, 7, 3)
    x, prior = jnp.asarray(x), jnp.asarray(prior)
    base, other = (
        jax.jit(lambda x, lattice=lattice: scale_sums(as_fold(game, x, lattice), prior, lattice))(x)
        for lattice in (make_lattice(7), make_lattice(7, *split))
    )
    for a, b in zip(base, other, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


@pytest.mark.slow
def test_long_lattice_agrees_with_a_sampled_enumeration(rng):
    """n = 14 has tops, lows and padding; the other road draws all subsequences of each scale."""
    game, x, prior, _ = multi_scale_case(rng, 14, 4)
    exact = ej.explain(game, x, prior=prior)
    estimator = ej.Constructive(max_subsequences=3432, iterations=1)
    drawn = ej.explain(game, x, prior=prior, estimator=estimator, key=jax.random.key(0))
    np.testing.assert_allclose(drawn.values, exact.values, atol=1e-11)
    np.testing.assert_allclose(drawn.scores, exact.scores, atol=1e-11)
    assert int(drawn.n_evaluations) == exact.n_evaluations


@settings(max_examples=6)
@given(
    seed=st.integers(0, 10**6),
    m=st.sampled_from([1, 2, 5]),
    unseen=st.sampled_from(["skip", "zero"]),
)
def test_constructive_is_algorithm_1(seed, m, unseen):
    with jax.enable_x64(True):
        rng = np.random.default_rng(seed)
        n, n_max = 6, 3
        game, x, prior, heads = multi_scale_case(rng, n, n_max)
        drawn = [plain.grow(rng, n, m) for _ in range(2)]
        member = [
            [np.array([[i in row for i in range(n)] for row in rows]) for rows in scales]
            for scales in drawn
        ]
        plan = ej.SubsequencePlan.from_membership(member)
        expected, marginals = plain.algorithm_1(heads, x, prior, drawn, unseen)
        estimator = ej.Constructive(unseen=unseen)
        att = ej.explain(game, x, prior=prior, estimator=estimator, plan=plan)
        np.testing.assert_allclose(att.values, expected, atol=1e-12)
        np.testing.assert_allclose(att.marginals, marginals, atol=1e-12)


def test_rows_without_sampled_parents_use_their_own_head(rng):
    """Independent draws: parents are often missing, below and beyond n_max."""
    n, n_max = 6, 3
    game, x, prior, heads = multi_scale_case(rng, n, n_max)
    scales = []
    for s in range(1, n + 1):
        rows = {frozenset(rng.permutation(n)[:s].tolist()) for _ in range(3)}
        scales.append(sorted(rows, key=sorted))
    member = [np.array([[i in row for i in range(n)] for row in rows]) for rows in scales]
    plan = ej.SubsequencePlan.from_membership([member])
    for unseen in ("skip", "zero"):
        expected, _ = plain.algorithm_1(heads, x, prior, [scales], unseen)
        if np.isnan(expected).any():
            continue
        att = ej.explain(game, x, prior=prior, estimator=ej.Constructive(unseen=unseen), plan=plan)
        np.testing.assert_allclose(att.values, expected, atol=1e-12)


@pytest.mark.parametrize("batch_size", [None, 1, 7, 1000])
@pytest.mark.parametrize("n", [1, 4, 12])
def test_average_consensus_is_the_variable_length_game(rng, n, batch_size):
    w, b = rng.normal(size=(3, 4)), rng.normal(size=4)
    x, prior = rng.normal(size=(n, 3)), random_prior(rng, 4)

    def apply(x, mask):
        keep = mask.astype(x.dtype)[:, None]
        return ((jax.nn.relu(x) @ w + b[None]) * keep).sum(0) / keep.sum()

    fast = ej.explain(ej.AverageConsensus(w, b), x, prior=prior)
    slow = ej.explain(ej.VariableLength(apply, batch_size=batch_size), x, prior=prior)
    for name in ("values", "scores", "marginals"):
        np.testing.assert_allclose(getattr(fast, name), getattr(slow, name), atol=1e-12)
    if n == 4:
        score = lambda e: plain.softmax(plain.average(w, b, x, e))  # noqa: E731
        table = plain.table(score, prior, n)
        np.testing.assert_allclose(fast.values, plain.shapley_by_weights(table), atol=1e-12)


def test_parameters_of_a_partial_are_traced(rng):
    traces = []

    def apply(w, x, mask):
        traces.append(1)
        return (x @ w * mask.astype(x.dtype)[:, None]).sum(0)

    x, prior = rng.normal(size=(3, 2)), random_prior(rng, 2)
    outputs = []
    for _ in range(3):
        game = ej.VariableLength(jax.tree_util.Partial(apply, jnp.asarray(rng.normal(size=(2, 2)))))
        outputs.append(ej.explain(game, x, prior=prior).values)
        if len(outputs) == 1:
            first = len(traces)
    per_call = (len(traces) - first) / 2  # shape questions only
    assert per_call < first
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-3


def test_variable_length_never_scores_the_empty_subsequence(rng):
    def apply(x, mask):
        keep = mask.astype(x.dtype)
        return (x * keep[:, None]).sum(0) / keep.sum()  # NaN or infinite without an element

    att = ej.explain(ej.VariableLength(apply), rng.normal(size=(4, 3)), prior=np.ones(3) / 3)
    assert np.isfinite(att.values).all()


def test_make_game(rng):
    game, *_ = multi_scale_case(rng, 3, 2)
    assert isinstance(make_game(game.heads), ej.MultiScale)
    tsn = TsnHead(jnp.ones((3, 2)), jnp.zeros(2), input_relu=True)
    consensus = make_game(tsn, link="identity")
    assert isinstance(consensus, ej.AverageConsensus)
    assert (consensus.input_relu, consensus.link) == (True, "identity")


def test_input_relu_of_heads(rng):
    _, x, prior, heads = multi_scale_case(rng, 4, 2)
    with_relu = ej.MultiScale(ej.models.stack_heads(heads, input_relu=True))
    without = ej.MultiScale(ej.models.stack_heads(heads))
    expected = ej.explain(without, np.maximum(x, 0), prior=prior).values
    np.testing.assert_allclose(ej.explain(with_relu, x, prior=prior).values, expected, atol=1e-14)


def test_a_class_with_all_members_is_a_game_without_deriving():
    game, *_ = multi_scale_case(np.random.default_rng(0), 3, 2)
    names = [name for name in dir(game) if not name.startswith("__")]
    like = type("Like", (), {name: getattr(game, name) for name in names})()
    assert isinstance(game, ej.games.ScaleGame) and isinstance(like, ej.games.ScaleGame)
    assert not isinstance(game, ej.games.SubsetGame) and not isinstance(like, ej.games.SubsetGame)
    del type(like).n_scales
    assert not isinstance(like, ej.games.ScaleGame)
    assert not isinstance(object(), ej.games.ScaleGame)
