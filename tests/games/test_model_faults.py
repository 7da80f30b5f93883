"""Models that leak, ignore masks, are stochastic, give NaN or other outputs; their lifetime."""

import gc
import types
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import esv_jax as ej
from tests.games_for_tests import multi_scale_case
from tests.reference import plain

C, D, N = 3, 4, 6
PRIOR = np.full(C, 1 / C)
W = np.random.default_rng(5).normal(size=(D, C)).astype(np.float32)


def pooled(x, mask):
    keep = mask.astype(x.dtype)[:, None]
    return (x * keep).sum(0) / keep.sum() @ W.astype(x.dtype)


@pytest.fixture
def x(rng):
    return rng.normal(size=(N, D)).astype(np.float32)


# Masks


def make_leaking():
    def leaking(x, mask):
        return pooled(x, mask) + 0.47 * x.max(0)[:C]  # a pooling that reads every frame

    return leaking


@pytest.mark.parametrize("run", ["explain", "batch"])
def test_absent_elements_that_affect_the_logits_are_a_warning_with_its_size(x, run):
    leaking = make_leaking()
    with pytest.warns(UserWarning, match="absent elements still affect the logits, by up to"):
        if run == "explain":
            att = ej.explain(ej.VariableLength(leaking), x, prior=PRIOR)
        else:
            att = ej.explain_batch(ej.VariableLength(leaking), [x, x], prior=PRIOR)[1]
    (text,) = att.warnings
    found = float(text.split("by up to ")[1].split()[0])
    mask, other = np.arange(N) % 2 == 0, np.array(x)
    other[~mask] = np.roll(x[::-1], 1, axis=0)[~mask] * 2 + 1
    expected = np.abs(leaking(jnp.asarray(x), mask) - leaking(jnp.asarray(other), mask)).max()
    assert found == pytest.approx(float(expected), rel=5e-3)


def test_a_leak_is_found_once_per_model_and_shape_and_stays_in_the_results(x):
    game = ej.VariableLength(make_leaking())
    with pytest.warns(UserWarning) as shown:
        first = ej.explain(game, x, prior=PRIOR)
        again = ej.explain(game, 2 * x, prior=PRIOR)
        assert first.warnings == again.warnings != ()
    assert len(shown) == 1
    with pytest.warns(UserWarning, match="absent elements"):
        ej.explain(game, x[:4], prior=PRIOR)


def test_a_mask_without_effect_is_a_warning(x):
    with pytest.warns(UserWarning, match="the mask has no effect on the logits"):
        att = ej.explain(ej.VariableLength(lambda x, mask: x.sum(0)[:C]), x, prior=PRIOR)
    assert "Use the mask" in att.warnings[0]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_model_that_masks_properly_has_no_warning(x, dtype):
    def apply(x, mask):
        return pooled(x.astype(dtype), mask)

    assert ej.explain(ej.VariableLength(apply), x, prior=PRIOR).warnings == ()


# Stochastic models


def test_a_stochastic_model_is_not_called_exact(x):
    rng = np.random.default_rng(0)

    def fn(clips):
        return plain.softmax(clips.mean(1) @ W + rng.normal(size=(len(clips), C)) * 0.3)

    with pytest.warns(UserWarning, match=r"stochastic: two scores .* differ by up to 0\.\d+"):
        att = ej.explain(ej.BlackBox(fn), x, prior=PRIOR)
    assert not att.exact and "stochastic" in att.warnings[0]
    with pytest.raises(ValueError, match=r"standard errors.*Make the model deterministic"):
        att.interval()
    calm = ej.explain(ej.BlackBox(lambda clips: plain.softmax(clips.mean(1) @ W)), x, prior=PRIOR)
    assert calm.exact and calm.warnings == ()


# Values that are not finite


def deviation(x, mask):
    return jnp.std(x, 0, where=mask[:, None], ddof=1)[:C]  # NaN for one element


def test_nan_for_some_subsequence_is_refused_with_its_size(x):
    game, key = ej.VariableLength(deviation), jax.random.key(0)
    expected = r"game: expected finite scores of every subsequence, got NaN or infinity for the fir"
    for estimator in (ej.Exact(), ej.SizeRegression(20), ej.PermutationSampling(2)):
        with pytest.raises(ValueError, match=expected + "st element alone"):
            ej.explain(game, x, prior=PRIOR, estimator=estimator, key=key)
    with pytest.raises(ValueError, match=r"xs\[0\]: expected finite scores.*first element alone"):
        ej.explain_batch(game, [x, x], prior=PRIOR)
    for function in (ej.baselines.leave_one_in, ej.pairwise_interactions, ej.owen_values):
        arguments = ([0, 0, 1, 1, 2, 2],) if function is ej.owen_values else ()
        with pytest.raises(ValueError, match="finite scores"):
            function(game, x, *arguments, prior=PRIOR)
    with pytest.raises(ValueError, match="finite scores"):
        ej.metrics.discard_curve(game, [x], [np.arange(N)], [0], prior=PRIOR)


# Precision and kinds of scores


@pytest.mark.parametrize("dtype", [jnp.bfloat16, pytest.param(jnp.float16, marks=pytest.mark.slow)])
def test_scores_in_half_precision_enter_estimators_in_single(rng, dtype):
    x = rng.normal(size=(16, D)).astype(np.float32)

    def apply(x, mask):
        return 5 * jnp.tanh(pooled(x.astype(dtype), mask))

    game, key = ej.VariableLength(apply), jax.random.key(0)
    for n in (8, 16):
        att = ej.explain(game, x[:n], prior=PRIOR, key=key)
        assert att.values.dtype == att.scores.dtype == jnp.float32
        np.testing.assert_allclose(att.efficiency_gap(), 0, atol=1e-6)
    drawn = ej.explain(game, x, prior=PRIOR, key=key, estimator=ej.Constructive(40, 4))
    assert float(drawn.std_error.max()) > 0
    assert ej.pairwise_interactions(game, x[:5], prior=PRIOR).dtype == jnp.float32
    assert ej.owen_values(game, x[:4], [0, 0, 1, 1], prior=PRIOR).values.dtype == jnp.float32
    assert ej.baselines.leave_one_out(game, x[:5], prior=PRIOR).dtype == jnp.float32
    assert ej.explain_batch(game, [x[:4], x[:5]], prior=PRIOR).values.dtype == jnp.float32


def test_integer_scores_are_refused_in_all_games(x):
    with pytest.raises(TypeError, match=r"apply_fn: expected floating-point logits.*dtype int32"):
        ej.explain(ej.VariableLength(lambda x, mask: mask.sum()[None]), x, prior=np.ones(1))
    with pytest.raises(TypeError, match="fn: expected floating-point"):
        ej.explain(ej.BlackBox(lambda clips: np.ones((len(clips), C), int)), x, prior=PRIOR)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda out: {"logits": out, "loss": None},
        lambda out: types.SimpleNamespace(logits=out, hidden=(out,)),
    ],
    ids=["dict", "object"],
)
def test_logits_of_a_model_output_are_taken(x, wrap):
    expected = ej.explain(ej.VariableLength(pooled), x, prior=PRIOR).values
    found = ej.explain(ej.VariableLength(lambda x, m: wrap(pooled(x, m))), x, prior=PRIOR).values
    np.testing.assert_allclose(found, expected, atol=1e-6)
    box = ej.BlackBox(lambda clips: wrap(plain.softmax(clips.mean(1) @ W)))
    np.testing.assert_allclose(ej.explain(box, x, prior=PRIOR).values, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("apply", "kind", "match"),
    [
        (lambda x, m: (pooled(x, m), x), ValueError, "got tuple. Return the scores alone"),
        (lambda x, m: {"scores": pooled(x, m)}, ValueError, "got dict with 'scores'. Return"),
        (lambda x, m: None, ValueError, "got NoneType"),
        (lambda x, m: x, ValueError, r"logits of shape \(C,\), got shape \(6, 4\)"),
    ],
)
def test_other_outputs_are_refused(x, apply, kind, match):
    with pytest.raises(kind, match="apply_fn: expected.*" + match):
        ej.explain(ej.VariableLength(apply), x, prior=PRIOR)


def test_binary_models_with_one_output(x):
    def logit(x, mask):
        return pooled(x, mask)[0]

    sigmoid = ej.VariableLength(logit, link="sigmoid")
    att = ej.explain(sigmoid, x, prior=[0.3])
    table = plain.table(
        lambda e: 1 / (1 + np.exp(-(x[list(e)].mean(0) @ W[:, :1]))), np.array([0.3]), N
    )
    np.testing.assert_allclose(att.values, plain.shapley_by_weights(table), atol=1e-6)
    box = ej.BlackBox(lambda clips: 1 / (1 + np.exp(-(clips.mean(1) @ W[:, 0]))))  # (B,)
    np.testing.assert_allclose(ej.explain(box, x, prior=[0.3]).values, att.values, atol=1e-6)
    with pytest.raises(ValueError, match=r"link: expected a softmax over two.*link='sigmoid'"):
        ej.explain(ej.VariableLength(logit), x, prior=[1.0])
    with pytest.raises(ValueError, match="a softmax over two classes"):
        ej.AverageConsensus(W[:, :1], np.zeros(1))


def test_independent_probabilities(x):
    prior = np.array([0.9, 0.8, 0.1])  # they need not sum to 1
    game, *_ = multi_scale_case(np.random.default_rng(0), 5, 3, c=C, d=D)
    several = ej.MultiScale(game.heads, link="sigmoid")
    att = ej.explain(several, x, prior=prior)
    np.testing.assert_allclose(att.efficiency_gap(), 0, atol=1e-6)
    with pytest.raises(ValueError, match="prior: expected probabilities <= 1"):
        ej.explain(several, x, prior=2 * prior)


def test_a_tensor_may_be_the_sequence(x):
    torch = pytest.importorskip("torch")
    expected = ej.explain(ej.VariableLength(pooled), x, prior=PRIOR).values
    tensor = torch.from_numpy(x).requires_grad_()
    found = ej.explain(ej.VariableLength(pooled), tensor, prior=torch.from_numpy(PRIOR)).values
    np.testing.assert_array_equal(found, expected)


def test_a_batch_taken_for_one_element_is_a_warning(x):
    def apply(x, mask):
        keep = mask.astype(x.dtype)[:, None, None]
        return (x * keep).sum((0, 1))[:C]

    att = ej.explain(ej.VariableLength(apply), x[None], prior=PRIOR)
    assert "If the first axis is a batch, pass x[0]" in att.warnings[0]
    with pytest.raises(TypeError, match=r"game: expected a game, got function\. Wrap the model"):
        ej.explain(apply, x, prior=PRIOR)


# Removal


def test_blur_finds_rows_and_columns_whatever_the_layout(rng):
    last = rng.random((4, 12, 10, 3)).astype(np.float32)

    def score(clips):
        return plain.softmax(np.stack([clips.std((1, 2, 3, 4)), clips.mean((1, 2, 3, 4))], 1))

    prior = np.full(2, 0.5)
    expected = ej.explain(ej.BlackBox(score, "blur"), last, prior=prior).values
    first = np.moveaxis(last, -1, 1)
    for layout in (None, "chw"):
        found = ej.explain(ej.BlackBox(score, "blur", layout=layout), first, prior=prior).values
        np.testing.assert_allclose(found, expected, atol=1e-5)
    unclear = rng.random((4, 3, 8, 3)).astype(np.float32)
    with pytest.raises(ValueError, match=r"channels can be told.*Give layout='hwc' or lay"):
        ej.explain(ej.BlackBox(score, "blur"), unclear, prior=prior)
    with pytest.raises(ValueError, match="layout: expected frames of 3 axes, got 'hw'"):
        ej.explain(ej.BlackBox(score, "blur", layout="hw"), last, prior=prior)


def test_a_function_removes_frames(x):
    def zeroed(frames, kept):
        return np.where(kept[:, None], frames, 0)

    fn = lambda clips: plain.softmax(clips.sum(1) @ W)  # noqa: E731
    att = ej.explain(ej.BlackBox(fn, zeroed), x, prior=PRIOR)
    expected = ej.explain(ej.BlackBox(fn, "zeros"), x, prior=PRIOR)
    np.testing.assert_allclose(att.values, expected.values, atol=1e-6)
    assert att.removal == "zeroed"
    with pytest.raises(ValueError, match=r"removal: expected frames \(k, ...\)"):
        ej.explain(ej.BlackBox(fn, lambda frames, kept: frames[:, :2]), x, prior=PRIOR)


def test_a_model_of_fixed_length_gets_a_way_out(x):
    def fixed(clips):
        return plain.softmax(clips.reshape(len(clips), N * D) @ np.ones((N * D, C)))

    with pytest.raises(ValueError, match=r"removal='drop'.*removal='freeze'.*groups=") as caught:
        ej.explain(ej.BlackBox(fixed), x, prior=PRIOR)
    assert isinstance(caught.value.__cause__, ValueError)
    assert ej.explain(ej.BlackBox(fixed, "freeze"), x, prior=PRIOR).exact


# Keys


@pytest.mark.parametrize(
    "estimator", [ej.SizeRegression(20), ej.PermutationSampling(2), ej.Constructive(4, 2)]
)
def test_keys_may_be_mapped_over(x, estimator):
    game = ej.VariableLength(pooled)

    def values(key):
        return ej.explain(game, x, prior=PRIOR, estimator=estimator, key=key).values

    keys = jax.random.split(jax.random.key(0), 3)
    together = jax.vmap(values)(keys)
    for key, found in zip(keys, together, strict=True):
        np.testing.assert_allclose(found, values(key), atol=1e-5)


def test_a_mapped_explanation_is_a_batch(x):
    game = ej.VariableLength(pooled)
    xs = np.stack([x, 2 * x])
    batch = jax.vmap(lambda x: ej.explain(game, x, prior=PRIOR))(xs)
    assert len(batch) == 2 and batch.is_batch
    one = ej.explain(game, x, prior=PRIOR)
    np.testing.assert_allclose(batch[0].values, one.values, atol=1e-6)
    np.testing.assert_allclose(batch[1].efficiency_gap(), 0, atol=1e-6)
    assert one == ej.explain(game, x, prior=PRIOR)
    assert one != batch[1] and one != 3


# Lifetimes


class Model:
    def __init__(self):
        self.w = jnp.asarray(W)

    def __call__(self, x, mask):
        return (x * mask.astype(x.dtype)[:, None]).sum(0) @ self.w

    def method(self, x, mask):
        return self(x, mask)


@pytest.mark.parametrize(
    "wrap",
    [
        ej.VariableLength,
        lambda model: ej.VariableLength(model.method),
        lambda model: ej.VariableLength(lambda x, mask: model(x, mask)),
        lambda model: ej.BlackBox(lambda clips: plain.softmax(clips.sum(1) @ np.asarray(model.w))),
    ],
    ids=["object", "method", "closure", "black box"],
)
def test_an_explained_model_is_not_kept_alive(x, wrap):
    def references():
        model = Model()
        game = wrap(model)
        key = jax.random.key(0)
        ej.explain(game, x, prior=PRIOR)
        ej.explain(game, x, prior=PRIOR, estimator=ej.SizeRegression(12), key=key)
        ej.explain_batch(game, [x, x], prior=PRIOR)
        ej.pairwise_interactions(game, x, prior=PRIOR)
        ej.baselines.leave_one_out(game, x, prior=PRIOR)
        return [weakref.ref(each) for each in (model, model.w, game)]

    alive = references()
    gc.collect()
    assert [reference() for reference in alive] == [None] * 3


def test_two_games_of_one_function_share_its_programs(x):
    traces = []

    def apply(x, mask):
        traces.append(x.shape)
        return pooled(x, mask)

    values = []
    for _ in range(3):
        values.append(ej.explain(ej.VariableLength(apply), x, prior=PRIOR).values)
        if len(values) == 1:
            first = len(traces)
    assert len(traces) == first
    np.testing.assert_array_equal(values[0], values[2])


def test_two_methods_of_one_object_are_two_models(x):
    class Two:
        def good(self, x, mask):
            return pooled(x, mask)

        def leaking(self, x, mask):
            return make_leaking()(x, mask)

    two = Two()
    good = ej.explain(ej.VariableLength(two.good), x, prior=PRIOR)
    with pytest.warns(UserWarning, match="absent elements"):
        other = ej.explain(ej.VariableLength(two.leaking), x, prior=PRIOR)
    assert good.warnings == () and other.warnings != ()
    assert np.abs(good.values - other.values).max() > 1e-3
