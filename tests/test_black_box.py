"""Black boxes: removal policies, batches, the cache, errors that arrive as they are."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import esv_jax as ej
from esv_jax.front_door import compiled
from esv_jax.games.black_box import BlackBox, probe_sensitivity, run_to_end
from esv_jax.games.removal import REMOVALS, frame_index, frame_table
from tests.reference import plain

C, D = 3, 4
PRIOR = np.full(C, 1 / C, np.float32)
W = np.random.default_rng(5).normal(size=(D, C)).astype(np.float32) * 2
VARIANTS = pytest.mark.parametrize(
    ("estimator", "key"),
    [(ej.Exact(), None), (ej.Constructive(6, 3), 0)],
    ids=["exact", "constructive"],
)


def mean_pool(clips):
    return plain.softmax(clips.mean(1).reshape(len(clips), -1)[:, :D] @ W)


def mean_pool_jax(x, mask):
    mask = mask.astype(x.dtype)
    return jax.nn.softmax((x * mask[:, None]).sum(0) / mask.sum() @ W)


def explain(game, x, estimator=None, key=None, prior=PRIOR, **kwargs):
    estimator = ej.Exact() if estimator is None else estimator
    key = None if key is None else jax.random.key(key)
    return ej.explain(game, x, prior=prior, estimator=estimator, key=key, **kwargs)


def sequence(rng, n, *shape):
    return rng.normal(size=(n, *(shape or (D,)))).astype(np.float32)


# Removal


def plain_blur(frame):
    """A direct double sum, float64."""
    h, w = frame.shape[:2]
    sigma = 0.1 * min(h, w)
    reach = int(np.ceil(3 * sigma))
    kernel = np.array([np.exp(-0.5 * (k / sigma) ** 2) for k in range(-reach, reach + 1)])
    kernel /= kernel.sum()
    out = np.zeros(frame.shape)
    for row in range(h):
        for col in range(w):
            for a in range(-reach, reach + 1):
                for b in range(-reach, reach + 1):
                    r, c = min(max(row + a, 0), h - 1), min(max(col + b, 0), w - 1)
                    out[row, col] += kernel[a + reach] * kernel[b + reach] * frame[r, c]
    return out


def plain_clip(removal, x, row):
    n = len(x)
    kept = [i for i in range(n) if row[i]]
    if removal == "drop":
        return np.array([x[i] for i in kept])
    frames = []
    for i in range(n):
        if row[i]:
            frames.append(x[i])
        elif removal == "freeze":
            frames.append(x[min(kept, key=lambda k: (abs(k - i), k))])
        elif removal == "mean":
            frames.append(sum(x[k] for k in range(n)) / n)
        elif removal == "zeros":
            frames.append(np.zeros(x.shape[1:]))
        else:
            frames.append(plain_blur(x[i]))
    return np.array(frames)


@pytest.mark.parametrize("removal", REMOVALS)
def test_clips_are_those_of_plain_loops(removal, rng):
    n = 5
    x = rng.normal(size=(n, 11, 13, 2))
    table = frame_table(removal, x)
    for code in range(1, 2**n):
        row = np.array([code >> i & 1 for i in range(n)], bool)
        clip = table[frame_index(removal, row[None])][0]
        np.testing.assert_allclose(clip, plain_clip(removal, x, row), atol=1e-12)


@pytest.mark.parametrize("removal", REMOVALS)
def test_exact_values_under_each_removal(removal, rng):
    n = 4
    x = sequence(rng, n, 6, 6)

    def score(clip):  # depends on the order of frames, and on any number of them
        weight = np.linspace(1, 2, clip.shape[1])
        pooled = np.einsum("bthw,t->bhw", clip, weight).reshape(len(clip), -1)[:, :D]
        return plain.softmax(pooled @ W / clip.shape[1])

    table = [PRIOR]
    for code in range(1, 2**n):
        row = [code >> i & 1 for i in range(n)]
        table.append(score(plain_clip(removal, x, row)[None])[0])
    result = explain(BlackBox(score, removal), x)
    expected = plain.shapley_by_weights(np.array(table))
    np.testing.assert_allclose(result.values, expected, atol=2e-6)


def test_blur_needs_rows_and_columns(rng):
    with pytest.raises(ValueError, match="rows and columns"):
        explain(BlackBox(mean_pool, "blur"), sequence(rng, 3))


# The same numbers as a JAX function


@VARIANTS
def test_black_box_equals_the_same_function_in_jax(estimator, key, rng):
    x = sequence(rng, 6)
    inside = explain(ej.VariableLength(mean_pool_jax, link="identity"), x, estimator, key)
    outside = explain(BlackBox(mean_pool, batch_size=5), x, estimator, key)
    np.testing.assert_allclose(outside.values, inside.values, atol=1e-6)
    np.testing.assert_allclose(outside.scores, inside.scores, atol=1e-6)
    assert int(outside.n_evaluations) == int(inside.n_evaluations)


@VARIANTS
def test_compiled_code_may_ask_without_explain(estimator, key, rng):
    x, game = sequence(rng, 4), BlackBox(mean_pool)
    served = explain(game, x, estimator, key)
    key = None if key is None else jax.random.key(key)
    direct = jax.jit(lambda x: estimator(game, x, jnp.asarray(PRIOR), key=key).values)(x)
    np.testing.assert_allclose(direct, served.values, atol=1e-7)


def test_run_to_end_may_be_nested(rng):
    x, game = sequence(rng, 4), BlackBox(mean_pool)
    nested = run_to_end(game, lambda: explain(game, x))
    np.testing.assert_array_equal(nested.values, explain(game, x).values)


def test_a_batch_of_sequences_equals_each_alone(rng):
    lengths = [3, 5, 4]
    xs = [sequence(rng, n) for n in lengths]
    game = BlackBox(mean_pool, "freeze")
    for estimator, key in ((ej.Exact(), None), (ej.Constructive(30, 1), jax.random.key(0))):
        batch = ej.explain_batch(game, xs, prior=PRIOR, estimator=estimator, key=key)
        for i, x in enumerate(xs):
            alone = explain(game, x)  # 30 >= binomial(5, 2): both are exact
            np.testing.assert_allclose(batch[i].values, alone.values, atol=1e-6)


def test_double_precision_is_kept(x64, rng):
    x = rng.normal(size=(4, D))
    result = explain(BlackBox(mean_pool), x, prior=PRIOR.astype(float))
    assert result.values.dtype == jnp.float64
    table = plain.table(lambda kept: mean_pool(x[None, list(kept)])[0], PRIOR, 4)
    np.testing.assert_allclose(result.values, plain.shapley_by_weights(table), atol=1e-14)


# What the model is asked


@pytest.mark.parametrize("removal", ["drop", "mean"])
def test_each_distinct_subsequence_is_evaluated_once(removal, rng):
    n, seen, batches = 6, [], []

    def fn(clips):
        seen.extend(clip.tobytes() for clip in clips)
        batches.append(clips.shape[:2])
        return mean_pool(clips)

    game = BlackBox(fn, removal, batch_size=7)
    x = sequence(rng, n)
    explain(game, x)
    assert len(seen) == len(set(seen)) == 2**n - 1 == game.counts.clips
    assert len(batches) == game.counts.calls
    assert max(b for b, _ in batches) == 7
    full = 1 + sum(-(-k // 7) for k in ([6, 15, 20, 15, 6] if removal == "drop" else [62]))
    assert len(batches) == full
    seen.clear()
    result = explain(game, x, ej.Constructive(8, 3), 0)  # asks anew: the model may have changed
    assert len(seen) == len(set(seen)) == int(result.n_evaluations)


def test_a_changed_model_is_not_answered_from_memory(rng):
    scale = [1.0]
    game, x = BlackBox(lambda clips: scale[0] * mean_pool(clips)), sequence(rng, 3)
    first = explain(game, x)
    scale[0] = 2.0
    np.testing.assert_allclose(explain(game, x).scores, 2 * first.scores, rtol=1e-6)


def test_a_second_sequence_compiles_nothing(rng):
    game = BlackBox(mean_pool)
    explain(game, sequence(rng, 5))
    before = compiled(ej.Exact(), True)._cache_size()
    explain(game, sequence(rng, 5))
    assert compiled(ej.Exact(), True)._cache_size() == before


def test_fn_runs_in_the_callers_thread(rng):
    threads = set()

    def fn(clips):
        threads.add(threading.get_ident())
        return jnp.asarray(mean_pool(clips))  # and may use JAX itself

    explain(BlackBox(fn), sequence(rng, 5))
    assert threads == {threading.get_ident()}


def test_progress_counts_clips(rng):
    class Bar:
        total, closed = 0, 0

        def __init__(self, unit, desc):
            pass

        def update(self, clips):
            Bar.total += clips

        def close(self):
            Bar.closed += 1

    game = BlackBox(mean_pool, progress=Bar)
    explain(game, sequence(rng, 4))
    assert Bar.total == 15 and Bar.closed == 1


def test_tensors_that_record_gradients_are_read(rng):
    class Tensor:
        def __init__(self, value):
            self.value = value

        def detach(self):
            return self

        def cpu(self):
            return self.value

    x = sequence(rng, 3)
    ours = explain(BlackBox(lambda clips: Tensor(mean_pool(clips))), x)
    np.testing.assert_array_equal(ours.values, explain(BlackBox(mean_pool), x).values)


# Errors


@pytest.mark.parametrize("error", [KeyError("no such clip"), KeyboardInterrupt(), OSError(5)])
@pytest.mark.parametrize("when", [0, 1, 5])
def test_errors_of_fn_arrive_as_they_are(error, when, rng, capfd):
    calls = []

    def fn(clips):
        calls.append(len(clips))
        if len(calls) > when:
            raise error
        return mean_pool(clips)

    game = BlackBox(fn, batch_size=2)
    with pytest.raises(type(error)) as caught:
        explain(game, sequence(rng, 5))
    assert caught.value is error
    assert len(calls) == when + 1  # and nothing is asked after it
    assert capfd.readouterr() == ("", "")
    game = BlackBox(mean_pool)
    assert np.isfinite(explain(game, sequence(rng, 5)).values).all()


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (lambda clips: mean_pool(clips)[0], ValueError, r"shape \(B, C\) = \(1, C\)"),
        (lambda clips: mean_pool(clips)[:, :, None], ValueError, "shape"),
        (lambda clips: np.ones((len(clips), C), int), TypeError, "floating-point scores"),
        (lambda clips: mean_pool(clips) / 0 * 0, ValueError, "finite scores"),
        (lambda clips: mean_pool(clips)[:, : clips.shape[1]], ValueError, r"= \(3, 3\)"),
    ],
)
@pytest.mark.filterwarnings("ignore:(divide|invalid)")
def test_bad_answers_are_refused(answer, kind, words, rng):
    with pytest.raises(kind, match=words):
        explain(BlackBox(answer), sequence(rng, 3))


def test_scores_need_not_be_probabilities(rng):
    x = sequence(rng, 3)
    result = explain(BlackBox(lambda clips: -5 * mean_pool(clips)), x)
    np.testing.assert_allclose(result.efficiency_gap(), 0, atol=1e-6)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="Did you mean 'freeze'"):
        BlackBox(mean_pool, "freze")
    with pytest.raises(ValueError, match="batch_size"):
        BlackBox(mean_pool, batch_size=0)
    with pytest.raises(TypeError, match="fn: expected a function"):
        BlackBox(3)
    with pytest.raises(TypeError, match="progress"):
        BlackBox(mean_pool, progress=True)


@pytest.mark.parametrize("transform", [jax.jit, jax.grad])
def test_a_black_box_cannot_be_traced(transform, rng):
    game, x = BlackBox(mean_pool), sequence(rng, 3)
    explain(game, x)
    with pytest.raises(TypeError, match="cannot be traced"):
        transform(lambda x: ej.explain(game, x, prior=PRIOR).values[0, 0])(x)


# Sensitivity


def strided(clips):
    return mean_pool(clips[:, ::2])


def test_the_probe_finds_ignored_positions(rng):
    x = sequence(rng, 6)
    with pytest.warns(UserWarning, match="positions 1, 3, 5 of 6"):
        found = probe_sensitivity(BlackBox(strided), x, key=jax.random.key(0))
    assert found.lengths == (2, 3, 5, 6)
    assert found.ignored == ((1,), (1,), (1, 3), (1, 3, 5))


def test_the_probe_is_silent_where_all_matter(rng):
    game, x = BlackBox(mean_pool, "zeros", batch_size=4), sequence(rng, 6)
    found = probe_sensitivity(game, x, key=jax.random.key(0), trials=1)
    assert found.lengths == (6,) and found.ignored == ((),)
    assert "every position matters" in str(found)
    assert game.counts == (2, 7)
