"""`explain`: results, differentiation, compilation, cost, and errors."""

import dataclasses
from typing import ClassVar

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import esv_jax as ej
from esv_jax.games.scoring import GameInfo, memory_of
from tests.games_for_tests import TableGame, as_float32, multi_scale_case


@pytest.fixture
def case(rng):
    game, x, prior, _ = multi_scale_case(rng, 6, 3)
    return game, x.astype(np.float32), prior


class TestInner(chex.TestCase):
    """`explain` may be jitted, vmapped and differentiated."""

    def setUp(self):
        super().setUp()
        self.game, x, prior, _ = multi_scale_case(np.random.default_rng(0), 5, 3)
        self.x, self.prior = jnp.asarray(x, jnp.float32), prior

    @chex.variants(with_jit=True, without_jit=True)
    def test_explain(self):
        run = self.variant(lambda x: ej.explain(self.game, x, prior=self.prior).values)
        expected = ej.explain(self.game, self.x, prior=self.prior).values
        chex.assert_shape(run(self.x), (5, 4))
        chex.assert_trees_all_close(run(self.x), expected, atol=1e-6)

    @chex.variants(with_jit=True, without_jit=True)
    def test_explain_sampled(self):
        def values(x, key):
            estimator = ej.Constructive(8, 2)
            return ej.explain(self.game, x, prior=self.prior, estimator=estimator, key=key).values

        key = jax.random.key(3)
        expected = values(self.x, key)
        chex.assert_trees_all_close(self.variant(values)(self.x, key), expected, atol=1e-6)

    @chex.variants(with_jit=True, without_jit=True)
    def test_vmap(self):
        xs = jnp.stack([self.x, -self.x, 2 * self.x])
        run = self.variant(jax.vmap(lambda x: ej.explain(self.game, x, prior=self.prior).values))
        expected = jnp.stack([ej.explain(self.game, x, prior=self.prior).values for x in xs])
        chex.assert_trees_all_close(run(xs), expected, atol=1e-6)


@pytest.mark.parametrize("n", [4, 11])
def test_values_are_differentiable(rng, x64, n):
    game, x, prior, _ = multi_scale_case(rng, n, 3)
    x = jnp.asarray(x)

    def value(x):
        return ej.explain(game, x, prior=prior, marginals=False).values[1, 2]

    gradient = jax.grad(value)(x)
    direction = jnp.asarray(rng.normal(size=x.shape))
    step = 1e-6
    difference = (value(x + step * direction) - value(x - step * direction)) / (2 * step)
    np.testing.assert_allclose((gradient * direction).sum(), difference, rtol=1e-6)
    assert np.abs(gradient).max() > 1e-4


def test_gradients_reach_the_heads(rng, x64):
    _, x, prior, heads = multi_scale_case(rng, 4, 2)
    stack = ej.models.stack_heads(heads)

    def value(stack):
        return ej.explain(ej.MultiScale(stack), jnp.asarray(x), prior=prior).values[0, 0]

    gradient = jax.grad(value)(stack)
    step = 1e-6
    bumped = dataclasses.replace(stack, w1=stack.w1.at[1, 0, 1, 2].add(step))
    lower = dataclasses.replace(stack, w1=stack.w1.at[1, 0, 1, 2].add(-step))
    difference = (value(bumped) - value(lower)) / (2 * step)
    np.testing.assert_allclose(gradient.w1[1, 0, 1, 2], difference, rtol=1e-5)


@dataclasses.dataclass(frozen=True)
class Counting(ej.Exact):
    """Exact, counting how often it is traced."""

    traces: ClassVar[list] = []

    def estimate(self, drawn, scores, prior, info, length=None):
        self.traces.append(info.n)
        return super().estimate(drawn, scores, prior, info, length)


def test_a_second_sequence_compiles_nothing(rng, case):
    game, x, prior = case
    Counting.traces.clear()
    for scale in (1, 2, 3):
        ej.explain(game, scale * x, prior=prior, estimator=Counting())
    other, *_ = multi_scale_case(rng, 6, 3)  # new heads of the same shape
    ej.explain(other, x, prior=prior, estimator=Counting())
    assert len(Counting.traces) == 1
    ej.explain(game, x[:4], prior=prior, estimator=Counting())
    assert len(Counting.traces) == 2


def test_auto_is_exact_where_it_fits(case):
    game, x, prior = case
    assert ej.explain(game, x, prior=prior).exact
    key = jax.random.key(0)
    sampled = ej.explain(game, np.tile(x, (4, 1)), prior=prior, key=key)
    assert not sampled.exact
    assert sampled.std_error is not None


def test_auto_samples_expensive_games_earlier():
    prior, key = np.full(3, 1 / 3), jax.random.key(0)
    x = np.random.default_rng(0).normal(size=(13, 3)).astype(np.float32)
    rows = ej.VariableLength(lambda x, mask: (x * mask.astype(x.dtype)[:, None]).sum(0))
    assert ej.explain(rows, x[:12], prior=prior).exact
    sampled = ej.explain(rows, x, prior=prior, key=key)
    assert not sampled.exact
    assert int(sampled.n_evaluations) <= 513
    clips = ej.BlackBox(lambda clips: clips.mean(1), scores="any")
    assert ej.explain(clips, x[:8], prior=prior).exact
    assert not ej.explain(clips, x[:11], prior=prior, key=key).exact


def test_same_key_same_bits(case):
    game, x, prior = case
    estimator = ej.Constructive(6, 3)
    one, two, other = (
        ej.explain(game, x, prior=prior, estimator=estimator, key=jax.random.key(k))
        for k in (0, 0, 1)
    )
    np.testing.assert_array_equal(one.values, two.values)
    np.testing.assert_array_equal(one.std_error, two.std_error)
    assert np.abs(one.values - other.values).max() > 1e-4


def test_precision_is_the_wider_of_model_and_features(case, rng):
    game, x, prior = case
    assert ej.explain(game, x.astype(np.float16), prior=prior).values.dtype == jnp.float32
    with jax.enable_x64(True):
        heads = ej.models.stack_heads(as_float32(multi_scale_case(rng, 6, 3)[3]))
        att = ej.explain(ej.MultiScale(heads), x.astype(np.float64), prior=prior)
        assert att.values.dtype == jnp.float64


def test_plan_cost_counts(case):
    game, x, _ = case
    cost = ej.plan_cost(game, x)
    assert cost.n_subsequences == 64
    assert cost.n_evaluations == 6 + 15 + 20
    assert cost.flops > 0
    assert "64 subsequences, 41 model evaluations" in str(cost)
    shape = jax.ShapeDtypeStruct((30, x.shape[1]), jnp.float32)
    sampled = ej.plan_cost(game, shape, ej.Constructive(100, 4))
    assert sampled.n_evaluations == 4 * (30 + 100 + 100)
    assert ej.plan_cost(ej.VariableLength(lambda x, mask: x.sum(0)), x).flops is None


def test_plan_cost_follows_the_memory_taken():
    """XLA's own count of temporary memory is near, where memory matters."""
    rng = np.random.default_rng(0)
    game, x, prior, _ = multi_scale_case(rng, 16, 4, c=50)
    x, prior = jnp.asarray(x, jnp.float32), jnp.asarray(prior, jnp.float32)
    ej.explain(game, x, prior=prior, marginals=False)
    program = memory_of(game)[ej.Exact(), False].lower(game, x, prior, None, None).compile()
    taken = program.memory_analysis().temp_size_in_bytes
    assert 0.5 < ej.plan_cost(game, x).n_bytes / taken < 2


BAD_PRIORS = [
    (None, ValueError, "prior: expected scores of the empty sequence"),
    (np.ones(3) / 3, ValueError, r"prior: expected shape \(C,\) = \(4,\)"),
    (np.ones(4), ValueError, "prior: expected a sum of 1, got 4. Under link='identity'"),
    (np.array([0.5, 0.7, -0.2, 0]), ValueError, "prior: expected probabilities >= 0, got -0.2"),
    (np.array([0.5, np.nan, 0.5, 0]), ValueError, "prior: expected finite values"),
    (np.array([1, 0, 0, 0]), TypeError, "prior: expected a floating-point array, got dtype int64"),
]


@pytest.mark.parametrize(("prior", "error", "match"), BAD_PRIORS)
def test_bad_priors(case, prior, error, match):
    game, x, _ = case
    with pytest.raises(error, match=match):
        ej.explain(game, x, prior=prior)


def test_identity_link_takes_any_finite_prior(case):
    game, x, _ = case
    identity = ej.MultiScale(game.heads, link="identity")
    att = ej.explain(identity, x, prior=np.array([3.0, -1, 0, 2]))
    assert np.abs(att.efficiency_gap()).max() < 1e-5


def bad_sequences():
    x = np.zeros((6, 3), np.float32)
    hole = x.copy()
    hole[2, 1] = np.nan
    return [
        (x[:0], ValueError, r"x: expected at least one element \(n >= 1\), got n = 0"),
        (np.zeros((6, 5), np.float32), ValueError, "with the heads' D = 3, got"),
        (x[0], ValueError, "with the heads' D = 3"),
        (x[None], ValueError, "For a batch, use explain_batch"),
        (np.float32(1), ValueError, "x: expected elements along the first axis"),
        (hole, ValueError, r"x: expected finite values, got nan at index \(2, 1\)"),
        (np.full((6, 3), np.inf, np.float32), ValueError, "x: expected finite values"),
        (np.zeros((6, 3), int), TypeError, "x: expected a floating-point array, got dtype int64"),
        ([["a"]], TypeError, "x: expected an array, got list"),
    ]


@pytest.mark.parametrize(("x", "error", "match"), bad_sequences())
def test_bad_sequences(case, x, error, match):
    game, _, prior = case
    with pytest.raises(error, match=match):
        ej.explain(game, x, prior=prior)


BAD_KEYS = [
    (None, ValueError, r"key: expected a PRNG key, got None. Make one with jax.random.key\(seed\)"),
    (0, TypeError, "key: expected a typed PRNG key, got int"),
    (np.zeros(2, np.uint32), TypeError, r"got an array of dtype uint32 and shape \(2,\)|ndarray"),
    (jnp.zeros(2, jnp.uint32), TypeError, r"got an array of dtype uint32 and shape \(2,\)"),
    (jax.random.split(jax.random.key(0)), ValueError, r"key: expected one key, shape \(\)"),
]


@pytest.mark.parametrize(("key", "error", "match"), BAD_KEYS)
def test_bad_keys(case, key, error, match):
    game, x, prior = case
    with pytest.raises(error, match=match):
        ej.explain(game, x, prior=prior, estimator=ej.Constructive(), key=key)


def test_too_long_for_exact(case):
    game, _, prior = case
    x = np.zeros((30, 3), np.float32)
    with pytest.raises(ValueError, match=r"at most 24 elements .* 1,073,741,823 .* Sample instead"):
        ej.explain(game, x, prior=prior, estimator=ej.Exact())


def test_too_large_for_the_memory(case):
    game, x, prior = case
    with pytest.raises(ValueError, match=r"within 1e-06 GB of memory, got 6 elements.*Sample"):
        ej.explain(game, x, prior=prior, estimator=ej.Exact(), max_bytes=1e3)
    sampled = {"estimator": ej.Constructive(10**6), "key": jax.random.key(0)}
    with pytest.raises(ValueError, match="Lower the estimator's numbers of subsequences"):
        ej.explain(game, x, prior=prior, max_bytes=1e6, **sampled)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: ej.Constructive(0), ValueError, "max_subsequences: expected an integer >= 1"),
        (lambda: ej.Constructive(8, 0), ValueError, "iterations: expected an integer >= 1"),
        (lambda: ej.Constructive(8.0), TypeError, "max_subsequences: expected an integer"),
        (lambda: ej.Constructive(unseen="drop"), ValueError, "unseen: expected one of 'skip', 'ze"),
        (lambda: ej.MultiScale([1]), TypeError, "heads: expected a HeadStack, got list"),
        (lambda: ej.VariableLength(3), TypeError, "apply_fn: expected a function"),
        (
            lambda: ej.VariableLength(lambda x, m: x, link="softmx"),
            ValueError,
            "link: expected one of 'softmax', .*, got 'softmx'. Did you mean 'softmax'",
        ),
        (
            lambda: ej.AverageConsensus(jnp.ones((3, 2)), jnp.ones(3)),
            ValueError,
            r"b: expected shape \(C,\) = \(2,\), got \(3,\)",
        ),
    ],
)
def test_bad_settings(make, error, match):
    with pytest.raises(error, match=match):
        make()


@pytest.mark.parametrize(
    ("estimator", "error"),
    [("exakt", ValueError), (None, TypeError), (ej.Exact, TypeError), (3, TypeError)],
)
def test_bad_estimators(case, estimator, error):
    game, x, prior = case
    with pytest.raises(error, match="estimator: expected 'auto' or an estimator such as Exact"):
        ej.explain(game, x, prior=prior, estimator=estimator)


def test_bad_plans(case):
    game, x, prior = case
    plan = ej.SubsequencePlan.from_membership([[np.ones((1, 1), bool)]])
    with pytest.raises(ValueError, match="plan: expected subsequences of the 6 elements"):
        ej.explain(game, x, prior=prior, plan=plan)
    with pytest.raises(ValueError, match="plan: expected an estimator that samples"):
        ej.explain(game, x[:1], prior=prior, estimator=ej.Exact(), plan=plan)
    with pytest.raises(
        TypeError, match="plan: expected a SubsequencePlan, as Constructive takes, got list"
    ):
        ej.explain(game, x[:1], prior=prior, plan=[])
    one_row = [np.arange(3)[None] < s for s in (1, 2, 3)]  # never without element 0
    plan = ej.SubsequencePlan.from_membership([one_row])
    att = ej.explain(game, x[:3], prior=prior, plan=plan)
    assert np.isfinite(att.values).all()  # scale 1 sets {0} against the prior


def test_an_element_missing_from_a_plan_is_an_error(case):
    game, x, prior = case
    rows = [np.zeros((0, 2), bool), np.ones((1, 2), bool)]
    plan = ej.SubsequencePlan.from_membership([rows])
    with pytest.raises(ValueError, match="none for element 0"):
        ej.explain(game, x[:2], prior=prior, plan=plan)


def test_table_games_implement_only_the_protocol():
    table = jnp.arange(8.0)[:, None]
    att = ej.explain(TableGame(table), jnp.zeros((3, 1)), prior=table[0])
    np.testing.assert_allclose(att.values[:, 0], [1, 2, 4], atol=1e-6)


def test_within_tolerance_is_reported():
    game, x, prior, _ = multi_scale_case(np.random.default_rng(3), 12, 4)
    x = x.astype(np.float32)
    exact = ej.explain(game, x, prior=prior)
    key = jax.random.key(0)
    small = ej.Surrogate(pool=16, base=64)
    first = ej.explain(game, x, prior=prior, estimator=small, key=key)
    assert first.within_tolerance is None
    half = float(first.half_width(0.9).max())
    asked = {"prior": prior, "estimator": small, "key": key, "confidence": 0.9}
    same = ej.explain(game, x, tolerance=1.01 * half, **asked)
    assert same.within_tolerance
    np.testing.assert_array_equal(same.values, first.values)
    finer = ej.explain(game, x, tolerance=half / 4, **asked)
    assert finer.within_tolerance
    assert int(finer.n_evaluations) > int(first.n_evaluations)
    assert float(finer.half_width(0.9).max()) <= half / 4
    assert np.abs(finer.values - exact.values).max() < half
    stopped = ej.explain(game, x, tolerance=half / 1e4, max_evaluations=100, **asked)
    assert stopped.within_tolerance is False
    one_class = ej.explain(game, x, tolerance=half / 4, classes=[1], **asked)
    assert float(one_class.half_width(0.9)[:, 1].max()) <= half / 4
    assert ej.explain(game, x, prior=prior, tolerance=0.1).within_tolerance  # exact


def test_bad_tolerances():
    game, x, prior, _ = multi_scale_case(np.random.default_rng(3), 6, 2)
    x, key = x.astype(np.float32), jax.random.key(0)
    with pytest.raises(ValueError, match="tolerance: expected a half width > 0"):
        ej.explain(game, x, prior=prior, tolerance=0.0)
    once = ej.Constructive(4, 1)
    assert ej.explain(game, x, prior=prior, estimator=once, key=key).std_error is None
    with pytest.raises(ValueError, match="expected standard errors, got a sampled result without"):
        ej.explain(game, x, prior=prior, estimator=once, key=key, tolerance=0.1)
    with pytest.raises(ValueError, match="confidence: expected a share"):
        ej.explain(game, x, prior=prior, tolerance=0.1, confidence=1.0)
    plan = ej.Surrogate(16).draw(key, GameInfo.of(game, 6))
    with pytest.raises(ValueError, match="plan: expected None beside a tolerance"):
        ej.explain(game, x, prior=prior, plan=plan, tolerance=0.1)
    with pytest.raises(ValueError, match="tolerance: expected None while tracing"):
        jax.jit(lambda x: ej.explain(game, x, prior=prior, tolerance=0.1).values)(x)


def test_a_tolerance_out_of_reach_ends_with_the_best_result(rng):
    """Distinct subsequences, evaluations and memory each end the rounds."""
    game, x, prior, _ = multi_scale_case(rng, 7, 2)
    x, key = x.astype(np.float32), jax.random.key(0)
    out_of_reach = {"prior": prior, "key": key, "tolerance": 1e-12}
    everything = 7 + 21
    for estimator in (ej.Surrogate(pool=16, base=32), ej.Constructive(16, 2)):
        att = ej.explain(game, x, estimator=estimator, **out_of_reach)
        assert att.within_tolerance is False and np.isfinite(att.values).all()
        assert int(att.n_evaluations) == everything
    batch = ej.explain_batch(
        game, [x, -x], estimator=ej.Surrogate(pool=16, base=32), **out_of_reach
    )
    assert not batch.within_tolerance.any()
    assert batch.n_evaluations.tolist() == [everything, everything]
    first = ej.explain(game, x, prior=prior, key=key, estimator=ej.Constructive(16, 2))
    little = 1.5 * ej.plan_cost(game, x, ej.Constructive(16, 2)).n_bytes
    att = ej.explain(game, x, estimator=ej.Constructive(16, 2), max_bytes=little, **out_of_reach)
    assert att.within_tolerance is False
    np.testing.assert_array_equal(att.values, first.values)


def test_evaluations_never_exceed_their_limit(rng):
    heads, x, prior, _ = multi_scale_case(rng, 16, 4)
    x, key = x.astype(np.float32), jax.random.key(0)
    att = ej.explain(heads, x, prior=prior, key=key, max_evaluations=150)
    assert not att.exact and 100 < int(att.n_evaluations) <= 150
    rows = ej.VariableLength(lambda x, mask: jnp.tanh((x * mask.astype(x.dtype)[:, None]).sum(0)))

    def explained(most, **settings):
        prior = np.full(3, 1 / 3)
        return ej.explain(rows, x, prior=prior, key=key, max_evaluations=most, **settings)

    assert 60 < int(explained(75).n_evaluations) <= 75
    limited = explained(75, tolerance=1e-9, estimator=ej.SizeRegression(40))
    assert int(limited.n_evaluations) <= 75 and limited.within_tolerance is False
    with pytest.raises(ValueError, match=r"max_evaluations: expected at least 513 evaluations"):
        explained(75, estimator=ej.SizeRegression(512))
    with pytest.raises(ValueError, match="expected enough evaluations to explain 16 elements"):
        explained(9)
    with pytest.raises(ValueError, match="max_evaluations: expected an integer >= 1"):
        explained(0)
    assert ej.plan_cost(rows, x, max_evaluations=75).n_evaluations <= 75


@pytest.mark.parametrize(
    ("asked", "error", "match"),
    [
        ({"classes": [1]}, ValueError, r"tolerance: expected a half width beside classes"),
        ({"confidence": 0.9}, ValueError, "tolerance: expected a half width beside confidence"),
        ({"tolerance": 0.1, "classes": [5]}, ValueError, "classes: expected a class in 0..3, got"),
        ({"tolerance": 0.1, "classes": [-1]}, ValueError, "classes: expected a class in 0..3"),
        ({"tolerance": 0.1, "classes": [True]}, TypeError, "classes: expected a class, got dty"),
        ({"tolerance": 0.1, "classes": []}, ValueError, "classes: expected a class, got none"),
        ({"key": 0}, TypeError, "key: expected a typed PRNG key, got int"),
        ({"key": jnp.zeros(2, jnp.uint32)}, TypeError, "key: expected a typed PRNG key"),
    ],
)
def test_no_argument_is_ignored(case, asked, error, match):
    game, x, prior = case
    with pytest.raises(error, match=match):
        ej.explain(game, x, prior=prior, **asked)
    with pytest.raises(error, match=match):
        ej.explain_batch(game, [x, x], prior=prior, **asked)


@pytest.mark.parametrize("n_max", [2, 6])
@pytest.mark.parametrize("unseen", ["skip", "zero"])
def test_a_plan_without_the_whole_sequence_is_refused(rng, n_max, unseen):
    game, x, prior, _ = multi_scale_case(rng, 3, n_max)
    x = x.astype(np.float32)
    scales = [np.eye(3, dtype=bool), ~np.eye(3, dtype=bool), np.ones((1, 3), bool)]
    estimator = ej.Constructive(unseen=unseen)
    whole = ej.SubsequencePlan.from_membership([scales])
    full = ej.explain(game, x, prior=prior, estimator=estimator, plan=whole)
    exact = ej.explain(game, x, prior=prior)
    np.testing.assert_allclose(full.scores, exact.scores, atol=1e-6)
    without = ej.SubsequencePlan.from_membership([scales[:2] + [np.zeros((0, 3), bool)]])
    with pytest.raises(ValueError, match="plan: expected the whole sequence at scale 3"):
        ej.explain(game, x, prior=prior, estimator=estimator, plan=without)
    once = ej.SubsequencePlan.from_membership([scales, scales[:2] + [np.zeros((0, 3), bool)]])
    found = ej.explain(game, x, prior=prior, estimator=estimator, plan=once)
    np.testing.assert_allclose(found.scores, full.scores, atol=1e-6)
    rows = ej.VariableLength(lambda x, mask: (x * mask.astype(x.dtype)[:, None]).sum(0))
    with pytest.raises(ValueError, match="plan: expected the whole sequence at scale 3"):
        ej.explain(rows, x, prior=np.full(3, 1 / 3), estimator=estimator, plan=without)


def test_a_whole_sequence_without_parents_beyond_the_heads_is_refused(rng):
    game, x, prior, _ = multi_scale_case(rng, 3, 1)
    scales = [np.eye(3, dtype=bool), np.zeros((0, 3), bool), np.ones((1, 3), bool)]
    plan = ej.SubsequencePlan.from_membership([scales])
    with pytest.raises(ValueError, match="plan: expected a sampled parent of every subsequence"):
        ej.explain(game, x.astype(np.float32), prior=prior, plan=plan)
