"""Black boxes: removal policies, batches, the cache, errors that arrive as they are."""

import threading
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import esv_jax as ej
from esv_jax.games.black_box import BlackBox, probe_sensitivity
from esv_jax.games.removal import REMOVALS, frame_index, frame_table
from esv_jax.games.scoring import memory_of
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
def test_clips_equal_plain_loops(removal, rng):
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
    assert seen[0] == seen[1] == x.tobytes()  # the whole one twice: is the model deterministic?
    assert len(seen) - 1 == len(set(seen)) == 2**n - 1 == game.counts.clips - 1
    assert len(batches) == game.counts.calls
    assert max(b for b, _ in batches) == 7
    full = 2 + sum(-(-k // 7) for k in ([6, 15, 20, 15, 6] if removal == "drop" else [62]))
    assert len(batches) == full
    seen.clear()
    result = explain(game, x, ej.Constructive(8, 3), 0)  # asks anew: the model may have changed
    assert len(seen) - 1 == len(set(seen)) == int(result.n_evaluations)


def test_a_changed_model_is_evaluated_again(rng):
    scale = [1.0]
    game, x = BlackBox(lambda clips: scale[0] * mean_pool(clips)), sequence(rng, 3)
    first = explain(game, x)
    scale[0] = 2.0
    np.testing.assert_allclose(explain(game, x).scores, 2 * first.scores, rtol=1e-6)


def test_exact_values_compile_nothing(rng):
    """Exact values need no program, sampled ones the same for all models."""
    memory = memory_of(BlackBox(mean_pool))
    before = set(memory)
    x = sequence(rng, 5)
    for _ in range(2):
        explain(BlackBox(mean_pool), x)
    assert set(memory) == before
    for _ in range(2):
        explain(BlackBox(mean_pool), x, ej.SizeRegression(12), 0)
    assert len(memory) <= len(before) + 2  # to draw and to estimate, from arrays alone


def test_fn_runs_in_the_callers_thread(rng):
    threads = set()

    def fn(clips):
        threads.add(threading.get_ident())
        return jnp.asarray(mean_pool(clips))  # and may use JAX itself

    explain(BlackBox(fn), sequence(rng, 5))
    assert threads == {threading.get_ident()}


def bar_of(bars):
    """A bar that writes its total and its count into `bars`."""

    class Bar:
        def __init__(self, total, unit, desc):
            bars.append([total, 0])

        def update(self, clips):
            bars[-1][1] += clips

        def close(self):
            bars[-1].append("closed")

    return Bar


def test_progress_counts_clips(rng):
    bars = []
    explain(BlackBox(mean_pool, progress=bar_of(bars)), sequence(rng, 4))
    assert bars == [[15, 15, "closed"]]


def test_tqdm_shows_progress(rng, capsys):
    tqdm = pytest.importorskip("tqdm").tqdm
    game = BlackBox(mean_pool, progress=tqdm, batch_size=4)
    explain(game, sequence(rng, 6), ej.SizeRegression(20), 0)
    shown = capsys.readouterr().err
    assert "model" in shown and "21/21" in shown and "clips/s" in shown
    xs = [sequence(rng, n) for n in (3, 4, 4)]
    ej.explain_batch(game, xs, prior=PRIOR, estimator=ej.Exact())
    shown = capsys.readouterr().err
    assert shown.count("0/37") == 1 and "37/37" in shown  # one bar for 7 + 15 + 15


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


# After a failure


class Failing:
    """mean_pool that raises once, when it has scored `after` clips; counts and keeps clips."""

    def __init__(self, after, error=None):
        self.after, self.error = after, error or OSError("gone")
        self.seen, self.scale = [], 1.0

    def __call__(self, clips):
        if self.after is not None and len(self.seen) + len(clips) > self.after:
            self.after = None
            raise self.error
        self.seen.extend(clip.tobytes() for clip in clips)
        return self.scale * mean_pool(clips)


@pytest.mark.parametrize("error", [OSError("gone"), KeyboardInterrupt()])
@pytest.mark.parametrize(
    ("estimator", "key", "total"),
    [(ej.Exact(), None, 63), (ej.SizeRegression(40), 3, 41), (ej.PermutationSampling(2), 3, None)],
    ids=["exact", "size regression", "permutations"],
)
def test_a_retry_evaluates_only_missing_scores(error, estimator, key, total, rng):
    x, fn = sequence(rng, 6), Failing(14, error)
    game = BlackBox(fn, batch_size=3)
    with pytest.raises(type(error)):
        explain(game, x, estimator, key)
    before = len(fn.seen)
    assert before > 8
    result = explain(game, x, estimator, key)
    whole = x.tobytes()
    assert fn.seen[before] == whole  # asked again: is it the same model?
    assert fn.seen[:2] == [whole, whole]
    rest = fn.seen[1:before] + fn.seen[before + 1 :]
    assert len(set(rest)) == len(rest) == int(result.n_evaluations)
    assert total in (None, len(rest))
    fresh = explain(BlackBox(mean_pool, batch_size=3), x, estimator, key)
    np.testing.assert_allclose(result.values, fresh.values, atol=1e-6)
    before = len(fn.seen)
    explain(game, x, estimator, key)  # after a success everything is asked anew
    assert len(fn.seen) - before == len(rest) + 1


def test_a_retry_after_the_model_changed_starts_over(rng):
    x, fn = sequence(rng, 5), Failing(20)
    game = BlackBox(fn, scores="any")
    with pytest.raises(OSError, match="gone"):
        explain(game, x)
    fn.scale, before = 2.0, len(fn.seen)
    result = explain(game, x)
    assert len(fn.seen) - before == 32
    np.testing.assert_allclose(result.scores, 2 * mean_pool(x[None])[0], rtol=1e-6)


def test_forget_and_another_sequence_drop_kept_scores(rng):
    x, other = sequence(rng, 5), sequence(rng, 5)
    for between in (lambda game: game.forget(), lambda game: explain(game, other)):
        fn = Failing(20)
        game = BlackBox(fn)
        with pytest.raises(OSError, match="gone"):
            explain(game, x)
        between(game)
        before = len(fn.seen)
        explain(game, x)
        assert len(fn.seen) - before == 32


def test_a_failure_of_the_first_evaluation_keeps_scores(rng):
    x, fn = sequence(rng, 5), Failing(20)
    game = BlackBox(fn)
    with pytest.raises(OSError, match="gone"):
        explain(game, x)
    fn.after, known = len(fn.seen), len(fn.seen)
    with pytest.raises(OSError, match="gone"):
        explain(game, x)
    explain(game, x)
    assert len(fn.seen) == known + 1 + (32 - known)


def test_a_batch_continues_after_a_failure(rng):
    xs, fn = [sequence(rng, n) for n in (4, 5, 3)], Failing(30)
    game = BlackBox(fn, batch_size=4)
    with pytest.raises(OSError, match="gone"):
        ej.explain_batch(game, xs, prior=PRIOR, estimator=ej.Exact())
    result = ej.explain_batch(game, xs, prior=PRIOR, estimator=ej.Exact())
    assert len(fn.seen) == 15 + 31 + 7 + 2
    for i, x in enumerate(xs):
        np.testing.assert_allclose(result[i].values, explain(game, x).values, atol=1e-6)


def test_a_bar_counts_kept_scores(rng):
    shown = []
    game, x = BlackBox(Failing(20), progress=bar_of(shown)), sequence(rng, 5)
    with pytest.raises(OSError, match="gone"):
        explain(game, x)
    explain(game, x)
    assert shown[0][0] == 31 and 10 < shown[0][1] <= 20
    assert shown[1] == [31, 31, "closed"]


def test_rounds_of_a_tolerance_share_scores(rng):
    x, fn = sequence(rng, 7), Failing(None)
    game = BlackBox(fn)
    result = explain(game, x, ej.SizeRegression(20), 0, tolerance=1e-9)
    assert bool(result.within_tolerance) and result.exact
    assert len(fn.seen) - 1 == len(set(fn.seen)) == 127  # of 21 + 41 + 81 + 127 in all


def test_kept_sequences_are_bounded(rng, monkeypatch):
    monkeypatch.setattr("esv_jax.games.host_scores._MAX_SEQUENCES", 2)
    xs, game = [sequence(rng, 3) for _ in range(4)], BlackBox(mean_pool)
    result = ej.explain_batch(game, xs, prior=PRIOR, estimator=ej.Exact())
    assert len(game.host._memory) == 2
    np.testing.assert_allclose(result[3].values, explain(game, xs[3]).values, atol=1e-6)


# Errors


def test_an_object_with_logits_is_a_model(rng):
    x, w = sequence(rng, 4), np.asarray(rng.normal(size=(D, 5)), np.float32)

    def logits(clip):
        return clip.mean(0) @ w

    model = types.SimpleNamespace(logits=logits)
    prior = np.full(5, 0.2, np.float32)
    found = ej.explain(BlackBox(model), x, prior=prior)
    each = ej.explain(
        BlackBox(lambda clips: jax.nn.softmax(jax.vmap(logits)(clips))), x, prior=prior
    )
    np.testing.assert_allclose(found.values, each.values, atol=1e-6)


@pytest.mark.parametrize("error", [KeyError("no such clip"), KeyboardInterrupt(), OSError(5)])
@pytest.mark.parametrize("when", [0, 1, 5])
def test_errors_of_fn_pass_unchanged(error, when, rng, capfd):
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
        (lambda clips: mean_pool(clips)[0], ValueError, r"shape \(B, C\) from 1 clips"),
        (lambda clips: mean_pool(clips)[:, :, None], ValueError, "shape"),
        (lambda clips: np.ones((len(clips), C), int), TypeError, "floating-point scores"),
        (lambda clips: mean_pool(clips) / 0 * 0, ValueError, "finite scores"),
        (lambda clips: mean_pool(clips)[:, : clips.shape[1]], ValueError, r"= \(3, 3\)"),
    ],
)
@pytest.mark.filterwarnings("ignore:(divide|invalid)")
def test_bad_outputs_are_refused(answer, kind, words, rng):
    with pytest.raises(kind, match=words):
        explain(BlackBox(answer), sequence(rng, 3))


def test_scores_need_not_be_probabilities(rng):
    x = sequence(rng, 3)
    result = explain(BlackBox(lambda clips: -5 * mean_pool(clips), scores="any"), x)
    np.testing.assert_allclose(result.efficiency_gap(), 0, atol=1e-6)


def test_logits_beside_a_prior_of_probabilities_are_refused(rng):
    x = sequence(rng, 3)
    calls = []

    def logits(clips):
        calls.append(len(clips))
        return clips.mean(1) @ W

    with pytest.raises(ValueError, match=r"such as logits.*Apply softmax in fn.*scores='any'"):
        explain(BlackBox(logits), x)
    with pytest.raises(ValueError, match="such as logits"):
        ej.explain_batch(BlackBox(logits), [x, x], prior=PRIOR)
    assert calls == [1] * 4  # before any work
    allowed = explain(BlackBox(logits, scores="any"), x)
    prior_of_logits = explain(BlackBox(logits), x, prior=np.zeros(C, np.float32))
    assert not allowed.warnings and not prior_of_logits.warnings
    np.testing.assert_allclose(allowed.efficiency_gap(), 0, atol=1e-6)


def test_scores_that_do_not_sum_to_one_are_a_warning(rng):
    x = sequence(rng, 3)
    result = explain(BlackBox(lambda clips: 2 * mean_pool(clips)), x)
    assert len(result.warnings) == 1 and "sum to 2, not 1" in result.warnings[0]
    half = explain(BlackBox(lambda clips: mean_pool(clips).astype(np.float16)), x)
    assert not half.warnings and half.values.dtype == jnp.float32
    batch = ej.explain_batch(BlackBox(lambda clips: 2 * mean_pool(clips)), [x, x], prior=PRIOR)
    assert batch.warnings == batch[1].warnings == result.warnings


def test_bfloat16_is_read(rng):
    x = sequence(rng, 3)
    result = explain(BlackBox(lambda clips: jnp.asarray(mean_pool(clips), jnp.bfloat16)), x)
    np.testing.assert_allclose(result.values, explain(BlackBox(mean_pool), x).values, atol=0.02)


def test_padding_and_nan_never_reach_the_model(rng):
    xs = rng.normal(size=(2, 5, D)).astype(np.float32)
    xs[0, 3:] = np.nan
    result = ej.explain_batch(BlackBox(mean_pool), xs, [3, 5], prior=PRIOR)
    np.testing.assert_allclose(
        result[0].values, explain(BlackBox(mean_pool), xs[0, :3]).values, atol=1e-6
    )
    game = BlackBox(mean_pool)
    with pytest.raises(ValueError, match="x: expected finite values"):
        explain(game, xs[0])
    assert game.counts.calls == 0


# Frames as they come


def test_clips_kept_by_the_model_are_not_overwritten(rng):
    x, kept, copies = sequence(rng, 5), [], []

    def fn(clips):
        if len(kept) % 2:
            clips = clips[:, :, 1:]  # a view holds them as well
        kept.append(clips)
        copies.append(clips.copy())
        return mean_pool(x[: clips.shape[1]][None].repeat(len(clips), 0))

    explain(BlackBox(fn, batch_size=4), x)
    for clips, copy in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(clips, copy)


@pytest.mark.parametrize(
    ("dtype", "removal"),
    [(np.int16, "drop"), (np.float16, "drop"), *((np.uint8, removal) for removal in REMOVALS)],
)
def test_clips_reach_the_model_in_their_own_dtype(dtype, removal, rng):
    frames = rng.integers(0, 256, (4, 6, 6)).astype(dtype)
    dtypes = set()

    def fn(clips):
        dtypes.add(clips.dtype)
        return mean_pool(clips.astype(np.float32) / 255)

    result = explain(BlackBox(fn, removal), frames)
    assert dtypes == {np.dtype(dtype)} and result.values.dtype == jnp.float32
    wide = explain(BlackBox(fn, removal), frames.astype(np.float32))
    np.testing.assert_allclose(result.values, wide.values, atol=2e-3)  # substitutes are rounded
    batch = ej.explain_batch(BlackBox(fn, removal), [frames, frames[:3]], prior=PRIOR)
    np.testing.assert_allclose(batch[0].values, result.values, atol=1e-6)


def test_replacements_of_integer_frames_are_rounded():
    clip = np.array([250, 255, 255], np.uint8)[:, None, None] * np.ones((3, 5, 5), np.uint8)
    assert frame_table("mean", clip)[3, 0, 0] == 253  # 253.3; eight bits alone would overflow
    np.testing.assert_array_equal(frame_table("blur", clip)[3:], clip)


def test_other_kinds_of_numbers_are_refused(rng):
    frames = rng.integers(0, 256, (3, D))
    with pytest.raises(TypeError, match=r"32 bits, got dtype int64. Cast it, e.g. to uint8"):
        explain(BlackBox(mean_pool), frames)
    with pytest.raises(TypeError, match="floating-point array, got dtype bool"):
        explain(BlackBox(mean_pool), frames > 9)
    with pytest.raises(TypeError, match="floating-point array, got dtype uint8"):
        explain(ej.VariableLength(mean_pool_jax), frames.astype(np.uint8))
    mixed = [frames.astype(np.uint8), sequence(rng, 3)]
    with pytest.raises(TypeError, match=r"xs\[1\]: expected dtype uint8 like the first"):
        ej.explain_batch(BlackBox(mean_pool), mixed, prior=PRIOR)


def test_the_removal_is_in_the_result(rng):
    pytest.importorskip("xarray")
    x = sequence(rng, 3)
    result = explain(BlackBox(mean_pool, "freeze"), x)
    assert result.removal == "freeze"
    assert result.to_xarray().attrs["removal"] == "freeze"
    batch = ej.explain_batch(BlackBox(mean_pool, "mean"), [x, x], prior=PRIOR)
    assert batch.removal == batch[0].removal == "mean"
    grouped = explain(BlackBox(mean_pool, "zeros"), x, groups=[0, 0, 1])
    assert grouped.removal == "zeros"
    assert explain(ej.VariableLength(mean_pool_jax), x).removal is None


@pytest.mark.parametrize(
    ("fn", "settings", "kind", "match"),
    [
        (mean_pool, {"scores": "probability"}, ValueError, "Did you mean 'probabilities'"),
        (mean_pool, {"removal": "freze"}, ValueError, "Did you mean 'freeze'"),
        (mean_pool, {"batch_size": 0}, ValueError, "batch_size"),
        (3, {}, TypeError, "fn: expected a function"),
        (mean_pool, {"progress": True}, TypeError, "progress"),
    ],
)
def test_bad_settings_are_refused(fn, settings, kind, match):
    with pytest.raises(kind, match=match):
        BlackBox(fn, **settings)


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


def test_the_probe_finds_nothing_where_all_positions_matter(rng):
    game, x = BlackBox(mean_pool, "zeros", batch_size=4), sequence(rng, 6)
    found = probe_sensitivity(game, x, key=jax.random.key(0), trials=1)
    assert found.lengths == (6,) and found.ignored == ((),)
    assert "every position matters" in str(found)
    assert game.counts == (2, 7)


def test_probe_results_are_warnings(rng):
    x = sequence(rng, 6)
    result = explain(BlackBox(strided, probe=True), x)
    text = "positions 1 of 2; positions 1 of 3; positions 1, 3 of 5; positions 1, 3, 5 of 6"
    assert result.warnings == (f"The model ignores {text}.",)
    assert int(result.n_evaluations) == 63
    batch = ej.explain_batch(BlackBox(strided, probe=True), [x, x[:1]], prior=PRIOR)
    assert batch.warnings == result.warnings
    assert not explain(BlackBox(mean_pool, probe=True), x).warnings
    assert not explain(BlackBox(strided, probe=True), x[:1]).warnings  # nothing to exchange


def test_a_probe_is_kept_for_a_retry(rng):
    x, fn = sequence(rng, 5), Failing(50)
    game = BlackBox(fn, probe=True)
    with pytest.raises(OSError, match="gone"):
        explain(game, x)
    explain(game, x)
    probe = 2 * (6 + 5 + 4 + 3)
    assert len(fn.seen) <= probe + 31 + 2
