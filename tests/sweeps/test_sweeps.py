"""Sweeps in one process: values, continuation, refusals, failures."""

import dataclasses
import itertools
import json
import os
import shutil

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from hypothesis import given, settings

import esv_jax as ej
from esv_jax import files
from esv_jax.results import store
from esv_jax.results.browser import Browser
from esv_jax.sweeps import engine as engines
from esv_jax.sweeps.planning import Job, bucket_ends, make_shards, share_of_host
from esv_jax.sweeps.shards import choice_names, chosen_classes, select_classes
from tests.sweeps_for_tests import (
    LENGTHS,
    N_CLASSES,
    WIDTH,
    make_model,
    make_sequences,
    run_sweep,
    shards_of,
    write_set,
)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A folder with a set, and its sweep in `out`."""
    folder = tmp_path_factory.mktemp("swept")
    write_set(folder)
    report = run_sweep(folder, marginals=True, shard_size=3)
    return folder, report


# Values


def explained_alone(uid, x, key, **options):
    model = make_model()
    game = ej.MultiScale(model.heads)
    own = options.pop("own", True)
    key = ej.video_key(key, uid) if own else key
    return ej.explain(game, x, prior=model.prior, key=key, **options)


def test_values_equal_those_of_explain(swept):
    folder, report = swept
    assert report.n_explained == report.n_videos == len(LENGTHS)
    with ej.results.open(folder / "out") as dataset:
        assert dataset.sizes["video"] == len(LENGTHS)
        for i, (uid, x) in enumerate(make_sequences().items()):
            found = ej.results.load_attribution(dataset, uid)
            alone = explained_alone(uid, x, jax.random.key(7))
            for name in ("values", "scores", "prior", "marginals"):
                np.testing.assert_allclose(
                    getattr(found, name), getattr(alone, name), rtol=0, atol=2e-6
                )
            assert found.exact
            assert found.n_evaluations == int(alone.n_evaluations)
            row = dataset.sel(video=uid)
            assert int(row["label"]) == i % N_CLASSES
            assert int(row["length"]) == len(x)
            assert int(row["prediction"]) == int(np.argmax(alone.scores))
            assert float(row["efficiency_gap"]) < 1e-6
            assert np.isnan(row["esv"].values[len(x) :]).all()
            assert row["element_index"].values[: len(x)].tolist() == list(range(len(x)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("estimator", "own"),
    [
        pytest.param(("Constructive", 6, 2), True, id="own draws"),
        pytest.param(("Surrogate", 16), False, id="one draw", marks=pytest.mark.slow),
    ],
)
def test_sampled_values_equal_those_of_explain(tmp_path, estimator, own):
    sequences = make_sequences((6, 9, 7, 6, 9))
    write_set(tmp_path, sequences)
    run_sweep(tmp_path, estimator=list(estimator))
    chosen = ej.Constructive(6, 2) if own else ej.Surrogate(16)
    with ej.results.open(tmp_path / "out") as dataset:
        for uid, x in sequences.items():
            found = ej.results.load_attribution(dataset, uid)
            alone = explained_alone(uid, x, jax.random.key(7), estimator=chosen, own=own)
            assert not found.exact
            np.testing.assert_allclose(found.values, alone.values, rtol=0, atol=2e-6)
            np.testing.assert_allclose(found.std_error, alone.std_error, rtol=0, atol=2e-6)


@pytest.mark.slow
def test_exact_and_sampled_in_one_sweep(tmp_path):
    """Short sequences are exact, long ones sampled, with standard errors."""
    write_set(tmp_path, make_sequences((4, 22, 4)))
    run_sweep(tmp_path, max_bytes=1e9)
    with ej.results.open(tmp_path / "out") as dataset:
        assert dataset["exact"].values.tolist() == [1, 1, 0]
        assert ej.results.load_attribution(dataset, "video-0").std_error is None
        assert ej.results.load_attribution(dataset, "video-1").std_error.shape == (22, N_CLASSES)
        assert "1 of" not in ej.results.tables.summary(dataset)
        assert "2 of 3 exact" in ej.results.tables.summary(dataset)


def test_values_are_independent_of_order_batch_and_shards(swept, tmp_path):
    """Values are equal bit for bit."""
    folder, _ = swept
    sequences = make_sequences()
    backwards = dict(reversed(sequences.items()))
    write_set(tmp_path, backwards)
    run_sweep(tmp_path, shard_size=7, marginals=True)
    run_sweep(tmp_path, "some", uids=["video-4", "video-0"], marginals=True)
    with ej.results.open(folder / "out") as whole:
        for name in ("out", "some"):
            with ej.results.open(tmp_path / name) as other:
                same = whole.sel(video=other["video"])
                for field in ("esv", "scores", "length", "exact"):
                    np.testing.assert_array_equal(other[field], same[field])


@pytest.mark.parametrize(
    "batch_size",
    [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(5, marks=pytest.mark.slow)],
)
def test_any_batch_size(swept, tmp_path, batch_size):
    folder, _ = swept
    run_sweep(folder, f"batch-{batch_size}", batch_size=batch_size)
    name = f"batch-{batch_size}"
    with ej.results.open(folder / "out") as whole, ej.results.open(folder / name) as other:
        np.testing.assert_allclose(other["esv"], whole["esv"], rtol=0, atol=2e-6)
        np.testing.assert_array_equal(other["video"], whole["video"])


def test_frames_are_segment_centres(tmp_path):
    sequences = make_sequences((9, 2, 11))
    write_set(tmp_path, sequences)
    run_sweep(tmp_path, frames=5)
    with ej.results.open(tmp_path / "out") as dataset:
        for uid, x in sequences.items():
            row = dataset.sel(video=uid)
            n = min(5, len(x))
            picked = ej.data.segment_centres(len(x), 5) if len(x) > 5 else np.arange(n)
            np.testing.assert_array_equal(row["element_index"][:n], picked)
            alone = explained_alone(uid, x[picked], jax.random.key(7))
            np.testing.assert_allclose(row["esv"][:n], alone.values, rtol=0, atol=2e-6)


def test_any_game_can_be_swept(tmp_path):
    write_set(tmp_path)
    data = ej.data.open_inputs(tmp_path / "features.hdf")
    weights = np.random.default_rng(0).normal(size=(WIDTH, N_CLASSES)).astype(np.float32)

    def apply(x, mask):
        kept = mask.astype(x.dtype)
        return ((x * kept[:, None]).sum(0) / kept.sum()) @ weights

    prior = np.full(N_CLASSES, 1 / N_CLASSES)
    game = ej.VariableLength(apply)
    with pytest.raises(ValueError, match="digest: expected a name for the model's weights"):
        ej.sweep(data, game, tmp_path / "out", prior=prior)
    report = ej.sweep(data, game, tmp_path / "out", prior=prior, digest="mine", limit=3)
    assert report.n_explained == 3

    def host(clips):
        odds = np.exp(clips.mean(1) @ weights)
        return odds / odds.sum(1, keepdims=True)

    box = ej.BlackBox(host)
    made = ej.sweep(data, box, tmp_path / "box", prior=np.ones(4) / 4, digest="box", limit=3)
    assert made.n_explained == 3
    for folder, each in (("out", game), ("box", box)):
        with ej.results.open(tmp_path / folder) as dataset:
            for uid in dataset["video"].values:
                alone = ej.explain(each, make_sequences()[uid], prior=prior)
                found = ej.results.load_attribution(dataset, uid)
                np.testing.assert_allclose(found.values, alone.values, rtol=0, atol=2e-6)
            assert dataset.attrs["removal"] == ("drop" if folder == "box" else "")


# Buckets and shards


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_buckets_are_the_fewest_that_waste_little(lengths, most):
    ends = bucket_ends(lengths, max_waste=0.2, most=most)
    assert ends == sorted(set(ends))
    assert ends[-1] == max(lengths)

    def waste(ends):
        padded = sum(min(end for end in ends if end >= n) for n in lengths)
        return 1 - sum(lengths) / padded

    assert len(ends) <= most
    sizes = sorted(set(lengths))
    for k in range(1, len(ends)):  # fewer would waste more
        for cut in itertools.islice(itertools.combinations(sizes[:-1], k - 1), 200):
            assert waste([*cut, sizes[-1]]) > 0.2
    if len(ends) < min(most, len(sizes)):
        assert waste(ends) <= 0.2 + 1e-12


def job_of_lengths():
    """A job without data, to plan for any lengths."""
    model = make_model()
    names, prior = model.class_names, model.prior
    return Job(None, np.arange(0), ej.MultiScale(model.heads), prior, names, "", (WIDTH,))


def test_shards_hold_every_video_once():
    lengths = np.array([5, 0, 3, 30, 5, 41, 30, 7])

    def choose(n):
        if n == 7:
            raise ValueError("seven: expected another number, got 7.")
        return ej.Exact() if n < 20 else ej.Constructive(4, 2)

    shards = make_shards(job_of_lengths(), lengths, choose, N_CLASSES, shard_size=1)
    assert sorted(np.concatenate([shard.positions for shard in shards])) == list(range(8))
    assert [shard.start for shard in shards] == list(range(8))
    for shard in shards:
        for n in lengths[shard.positions]:
            assert n <= shard.n
            assert shard.n == n or n == 0 or shard.estimator == ej.Constructive(4, 2)
    assert {shard.reason for shard in shards if shard.estimator is None} == {
        "",
        "seven: expected another number, got 7.",
    }
    for n_hosts in (1, 2, 3):
        shares = [share_of_host(shards, [0, 2, 3, 5], k, n_hosts) for k in range(n_hosts)]
        assert sorted(itertools.chain(*shares)) == [0, 2, 3, 5]


def test_default_shards_hold_what_half_a_minute_explains():
    """Whole blocks, bounded by cost and by size."""
    job, lengths = job_of_lengths(), np.full(3000, 4)
    shards = make_shards(job, lengths, lambda n: ej.Exact(), N_CLASSES)
    assert [len(shard.positions) for shard in shards] == [1024, 1024, 952]
    shards = make_shards(job, lengths, lambda n: ej.Exact(), n_values=40_000)
    assert {len(shard.positions) for shard in shards[:-1]} == {96}


# Classes


def test_chosen_classes_equal_a_loop(rng):
    assert choice_names("all", 4) is None
    names = choice_names("gt, pred,top2", 4)
    assert names == ("gt", "pred", "top1", "top2")
    scores, labels = rng.normal(size=(6, 4)).astype(np.float32), np.array([0, 1, -1, 3, 2, 0])
    scores[3] = 1.0  # equal scores: the first class
    chosen = chosen_classes(names, scores, labels)
    values = rng.normal(size=(6, 3, 4)).astype(np.float32)
    kept = select_classes(values, chosen)
    for i in range(6):
        order = sorted(range(4), key=lambda c: (-scores[i, c], c))
        assert chosen[i].tolist() == [labels[i], order[0], order[0], order[1]]
        for k, c in enumerate(chosen[i]):
            expected = values[i, :, c] if c >= 0 else np.full(3, np.nan)
            np.testing.assert_array_equal(kept[i, :, k], expected)


@pytest.mark.parametrize("classes", ["", "best", "gt,gt", "top5", "top0", "all,gt", "top2,top1"])
def test_other_classes_are_refused(classes):
    with pytest.raises(ValueError, match="classes: expected"):
        choice_names(classes, 4)


def expect_row_per_class(dataset, asked):
    """Assert one row per video, element and class, with the choices that name the class."""
    table = ej.results.to_dataframe(dataset, asked)
    choices = dataset["choice"].values.tolist()
    names = dataset["class"].values
    expected = {}
    for i, uid in enumerate(dataset["video"].values):
        for k, c in enumerate(dataset["chosen"].values[i]):
            for element in range(int(dataset["length"][i])):
                value = float(dataset["esv"][i, element, k])
                said, _ = expected.get((uid, element, names[c]), ("", value))
                expected[uid, element, names[c]] = (f"{said},{choices[k]}".strip(","), value)
    got = {
        (row["video"], row["element"], row["class"]): (row["choice"], row["esv"])
        for row in table.to_dict("records")
    }
    assert len(table) == len(got)
    assert got == expected


def test_values_of_some_classes(swept):
    folder, _ = swept
    run_sweep(folder, "chosen", classes="gt,pred,top2", marginals=True)
    with ej.results.open(folder / "out") as whole, ej.results.open(folder / "chosen") as some:
        assert some["choice"].values.tolist() == ["gt", "pred", "top1", "top2"]
        for uid in whole["video"].values:
            full = ej.results.load_attribution(whole, uid)
            kept = ej.results.load_attribution(some, uid)
            ids = some["chosen"].sel(video=uid).values
            np.testing.assert_array_equal(kept.values, full.values[:, ids])
            np.testing.assert_array_equal(kept.marginals, full.marginals[:, :, ids])
            np.testing.assert_array_equal(kept.scores, full.scores[ids])
            np.testing.assert_array_equal(kept.prior, full.prior[ids])
            np.testing.assert_array_equal(some.scores.sel(video=uid), full.scores)
        assert "values kept of gt, pred, top1, top2" in ej.results.tables.summary(some)
        expect_row_per_class(some, ["gt", "pred", "top1", "top2"])
        expect_row_per_class(some, "all")
        table = ej.results.to_dataframe(some, ["top1", "top2"])
        assert len(table) == 2 * sum(LENGTHS)
        assert set(table["choice"]) == {"top1", "top2"}
        with pytest.raises(ValueError, match=r"classes: expected among .*got 'kind 0'"):
            ej.results.to_dataframe(some, "kind 0")


# Tables


def test_long_table(swept):
    folder, _ = swept
    with ej.results.open(folder / "out") as dataset:
        table = ej.results.to_dataframe(dataset, ["gt", "kind 2", 0])
        classes = [{i % N_CLASSES, 2, 0} for i in range(len(LENGTHS))]  # one row for each
        assert len(table) == sum(n * len(own) for n, own in zip(LENGTHS, classes, strict=True))
        assert not table.duplicated(["video", "element", "class"]).any()
        assert "choice" not in table
        for row in table.iloc[::37].itertuples():
            c = dataset["class"].values.tolist().index(row[4])
            found = dataset["esv"].sel(video=row.video).values[row.element, c]
            assert row.esv == found
            assert row.label == f"kind {int(row.video[6:]) % N_CLASSES}"
        pred = ej.results.to_dataframe(dataset)
        assert (pred["class"] == pred["prediction"]).all()
        every = ej.results.to_dataframe(dataset.isel(video=[0]), "all")
        assert len(every) == N_CLASSES * int(dataset["length"][0])
        with pytest.raises(ValueError, match=r"classes: expected pred, gt, all.* Did you mean"):
            ej.results.to_dataframe(dataset, "kind 22")


def test_collation_of_common_videos(swept, tmp_path):
    folder, _ = swept
    run_sweep(folder, "three", frames=3, uids=["video-4", "video-1", "video-2"])
    opened = {name: ej.results.open(folder / name) for name in ("out", "three")}
    together = ej.results.collate(opened)
    assert set(together["video"].values) == {"video-4", "video-1", "video-2"}
    assert together["sweep"].values.tolist() == ["out", "three"]
    for name, dataset in opened.items():
        for uid in together["video"].values:
            one = together.sel(sweep=name, video=uid)
            own = dataset.sel(video=uid)
            n = int(own["length"])
            np.testing.assert_array_equal(one["esv"].values[:n], own["esv"].values[:n])
            assert np.isnan(one["esv"].values[n:]).all()
            assert int(one["label"]) == int(own["label"])
    assert set(json.loads(together.attrs["settings"])) == {"out", "three"}
    together.to_netcdf(tmp_path / "both.nc", engine="h5netcdf")
    run_sweep(folder, "rest", uids=["video-3"])
    with pytest.raises(ValueError, match="videos in common"):
        ej.results.collate({"a": opened["three"], "b": ej.results.open(folder / "rest")})
    with pytest.raises(ValueError, match=r"datasets\['b'\]: expected the class dimension"):
        renamed = opened["out"].assign_coords({"class": list("abcd")})
        ej.results.collate({"a": opened["three"], "b": renamed})


# Looking through


def test_videos_are_found_and_sorted(swept):
    folder, _ = swept
    run_sweep(folder, "browsed", min_elements=3)
    with ej.results.open(folder / "browsed") as dataset:
        browser = Browser(dataset)
        every = [browser.row(uid) for uid in browser.find()]
        assert [row.uid for row in every] == dataset["video"].values.tolist()
        assert len(browser) == len(LENGTHS)
        explained = [row for row in every if not row.failed]
        failed = browser.find(failed=True)
        assert failed == [f"video-{i}" for i, n in enumerate(LENGTHS) if n == 2]
        assert all("at least 3 elements" in browser.row(uid).failed for uid in failed)
        for row in explained:
            att = browser.attribution(row.uid)
            c = int(np.argmax(att.scores))
            assert row.prediction == c
            assert row.score == float(att.scores[c])
            np.testing.assert_allclose(row.evidence, att.evidential_score(c), atol=1e-7)
            assert row.correct == (row.label == row.prediction)
            assert browser.element_index(row.uid).tolist() == list(range(row.n))
            assert browser.classes_of(row.uid) == tuple(range(N_CLASSES))
        for sort in ("evidence", "score", "gap", "length"):
            for descending in (False, True):
                found = browser.find(sort=sort, descending=descending, failed=False)
                name = "n" if sort == "length" else sort
                keys = [getattr(browser.row(uid), name) for uid in found]
                assert keys == sorted(keys, reverse=descending)
        assert browser.find(sort="score")[-len(failed) :] == failed
        assert browser.find(sort="uid") == sorted(row.uid for row in every)
        assert browser.find(search="VIDEO-1") == [u for u in browser.find() if "video-1" in u]
        right = browser.find(correct=True)
        assert right == [row.uid for row in explained if row.correct]
        assert len(right) + len(browser.find(correct=False)) == len(explained)
        kind = browser.find(true_class=1, predicted_class=2)
        assert kind == [r.uid for r in explained if (r.label, r.prediction) == (1, 2)]
        with pytest.raises(ValueError, match="sort: expected"):
            browser.find(sort="colour")
        with pytest.raises(ValueError, match="uid: expected one of 20 videos"):
            browser.row("../../etc/passwd")


# Going on


def test_a_finished_sweep_is_not_repeated(swept):
    folder, _ = swept
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "out/shards").iterdir()}
    again = run_sweep(folder, marginals=True, shard_size=3)
    assert again.n_explained == 0
    assert again.n_before == len(LENGTHS)
    after = {path.name: path.stat().st_mtime_ns for path in (folder / "out/shards").iterdir()}
    assert after == before


@pytest.mark.parametrize(
    "harm", ["record lost", "file lost", "byte turned", "cut short", "record cut"]
)
def test_lost_and_damaged_shards_are_recomputed(swept, harm):
    folder, _ = swept
    whole = shards_of(folder / "out")
    place = store.read_manifest(folder / "out")["shards"][2]
    lost = range(place["start"], place["start"] + place["rows"])
    path, record = store.shard_path(folder / "out", 2), store.record_path(folder / "out", 2)
    if harm == "record lost":
        record.unlink()
    elif harm == "file lost":
        path.unlink()
    elif harm == "byte turned":
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif harm == "cut short":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        record.write_text(record.read_text()[:20])
    if harm != "byte turned":  # that is found by reading everything
        with ej.results.open(folder / "out") as dataset:
            assert dataset.attrs["n_finished"] == dataset.sizes["video"] < len(LENGTHS)
            assert (
                f"{dataset.sizes['video']} of {len(LENGTHS)} so far"
                in ej.results.tables.summary(dataset)
            )
            assert not np.isnan(dataset["esv"].values[:, 0]).any()
    else:
        with pytest.raises(ValueError, match=r"got damage in shards/00002.nc. The sweep's command"):
            ej.results.open(folder / "out")
    again = run_sweep(folder, marginals=True, shard_size=3)
    assert again.n_explained == len(lost)
    assert again.recomputed == (0 if harm == "record lost" else 1)
    assert shards_of(folder / "out") == whole


@pytest.mark.parametrize("name", [store.VIEW, "shards/00000.nc"])
def test_a_pipe_instead_of_a_file_does_not_block(swept, tmp_path, name):
    shutil.copytree(swept[0] / "out", tmp_path / "out")
    (tmp_path / "out" / name).unlink()
    os.mkfifo(tmp_path / "out" / name)
    if name == store.VIEW:
        with pytest.raises(ValueError, match=r"got a missing or damaged results\.nc"):
            ej.results.open(tmp_path / "out")
    else:
        assert store.damaged(tmp_path / "out", store.read_records(swept[0] / "out")) == [0]


@pytest.mark.parametrize("harm", ["lost", "cut", "foreign"])
def test_a_damaged_view_is_restored(swept, harm):
    folder, _ = swept
    view = folder / "out" / store.VIEW
    if harm == "lost":
        view.unlink()
    else:
        view.write_bytes(view.read_bytes()[:1000] if harm == "cut" else b"other")
    again = run_sweep(folder, marginals=True, shard_size=3)
    assert again.n_explained == 0
    with ej.results.open(folder / "out") as dataset:
        assert not np.isnan(dataset["esv"].values[:, 0]).any()


def test_retry_failed_explains_failed_videos_again(tmp_path):
    sequences = make_sequences((3, 3, 3, 3))
    write_set(tmp_path, sequences)
    whole = run_sweep(tmp_path, "whole", shard_size=2)
    good = ej.data.open_inputs(tmp_path / "features.hdf")

    def breaks(i, most):
        if i == 2:
            raise OSError("the network is down")
        return good.read(i, most)

    bad = dataclasses.replace(good, read=breaks, read_run=None)
    model, out = tmp_path / "model.safetensors", tmp_path / "out"
    options = {"key": jax.random.key(7), "shard_size": 2}
    assert dict(ej.sweep(bad, model, out, **options).failures) == {"video-2": "the network is down"}
    assert ej.sweep(good, model, out, **options).n_explained == 0
    again = ej.sweep(good, model, out, **options, retry_failed=True)
    assert again.n_explained == 2
    assert not again.failures
    assert again.recomputed == 0
    assert shards_of(out) == shards_of(whole.path)


def test_shards_of_another_sweep_do_not_count(swept, tmp_path):
    """A killed overwrite may leave such shards."""
    folder, _ = swept
    run_sweep(folder, "first", limit=4, shard_size=2)
    run_sweep(folder, "second", limit=4, shard_size=2, seed=8)
    for path in (folder / "first" / store.SHARDS).iterdir():
        (folder / "second" / store.SHARDS / path.name).write_bytes(path.read_bytes())
    assert not store.read_records(folder / "second")
    again = run_sweep(folder, "second", limit=4, shard_size=2, seed=8)
    assert again.n_explained == 4


def test_another_sweep_is_not_overwritten(swept):
    folder, _ = swept
    before = shards_of(folder / "out")
    with pytest.raises(FileExistsError, match=r"classes: all there, pred here\)\. .*overwrite"):
        run_sweep(folder, marginals=True, shard_size=3, classes="pred")
    with pytest.raises(FileExistsError, match=r"key: \[0, 7\] there, \[0, 8\] here"):
        run_sweep(folder, marginals=True, shard_size=3, seed=8)
    assert shards_of(folder / "out") == before
    other = folder / "other"
    other.mkdir()
    (other / "results.nc").write_text("mine")
    with pytest.raises(FileExistsError, match="which no sweep wrote"):
        run_sweep(folder, "other")
    made = run_sweep(folder, "other", overwrite=True, limit=2)
    assert made.n_explained == 2
    made = run_sweep(folder, "other", overwrite=True, limit=3)
    assert made.n_explained == 3


def test_other_versions_are_refused(swept):
    folder, _ = swept
    path = folder / "out" / store.MANIFEST
    text = path.read_text()
    try:
        path.write_text(text.replace(f'"jax": "{jax.__version__}"', '"jax": "0.1"'))
        with pytest.raises(FileExistsError, match=r"jax: 0\.1 there"):
            run_sweep(folder, marginals=True, shard_size=3)
    finally:
        path.write_text(text)


def small_set(folder):
    """Four sequences, two shards."""
    write_set(folder, make_sequences((3, 3, 3, 3)))


def names_in(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_files_of_other_origin_stay(tmp_path):
    small_set(tmp_path)
    out = tmp_path / "out"
    mine = [".gitlab-ci.yml", ".env.local", "notes.nc", "shards/.mine.nc", "shards/x.json"]
    mine += ["shards/.writing/.keep.me", "shards/.cfg.d/a", ".cfg.d/a", ".results.0123abcd.nc"]
    for name in mine:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("mine")
    for options in ({}, {}, {"seed": 8, "overwrite": True}, {"seed": 8, "overwrite": True}):
        run_sweep(tmp_path, shard_size=2, **options)
        assert all((out / name).read_text() == "mine" for name in mine)
    (out / store.MANIFEST).write_text("{")
    made = run_sweep(tmp_path, shard_size=4, overwrite=True)
    assert made.n_explained == 4 and not made.failures
    assert all((out / name).read_text() == "mine" for name in mine)
    assert not (out / "shards" / "00001.nc").exists()


def test_files_named_like_shards_are_not_replaced(tmp_path):
    small_set(tmp_path)
    path = tmp_path / "out" / "shards" / "00000.nc"
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match=r"out: .*00000\.nc', which no sweep wrote"):
            run_sweep(tmp_path, overwrite=overwrite)
    assert names_in(tmp_path / "out") == {"shards", "shards/00000.nc"}
    assert path.read_text() == "mine"


def test_leftovers_of_a_killed_writer_are_removed(tmp_path):
    small_set(tmp_path)
    run_sweep(tmp_path, shard_size=2)
    before = names_in(tmp_path / "out")
    left = tmp_path / "out" / "shards" / ".writing" / f"{files._host()}.{10**30}.0123abcd.nc"
    left.parent.mkdir()
    left.write_text("half a shard")
    run_sweep(tmp_path, shard_size=2)
    assert names_in(tmp_path / "out") == before


def test_one_sweep_at_a_time_writes_to_a_folder(tmp_path):
    small_set(tmp_path)
    told = []

    def again(progress):
        text = rf"out: expected a folder that no other sweep is .*, got process {os.getpid()} on"
        for options in ({}, {"overwrite": True}, {"seed": 8, "overwrite": True}):
            with pytest.raises(FileExistsError, match=text):
                run_sweep(tmp_path, shard_size=2, **options)
        told.append(progress)

    report = run_sweep(tmp_path, shard_size=2, progress=again)
    assert len(told) == 2 and report.n_explained == 4
    assert run_sweep(tmp_path, shard_size=2).n_before == 4


# Data that change


def lose_last_shard(out):
    """Remove the last shard's record, as if the sweep had been killed after the first."""
    store.record_path(out, 1).unlink()


def rewrite(folder, uid, add, kind):
    """Add `add` to one video of the set: a file of features, an array, or data in memory."""
    sequences = make_sequences((3, 3, 3, 3))
    sequences[uid] = sequences[uid] + np.float32(add)
    if kind == "hdf":
        write_set(folder, sequences)
        return folder / "features.hdf"
    if kind == "npy":
        np.save(folder / "features.npy", np.stack(list(sequences.values())))
        return folder / "features.npy"
    arrays = list(sequences.values())

    def read(i, most):
        return arrays[i], np.arange(3)

    return ej.data.inputs.Inputs(tuple(sequences), read, lambda i: 3, None, None)


@pytest.mark.parametrize("kind", ["hdf", "npy", "memory"])
def test_features_that_changed_are_refused(tmp_path, kind):
    write_set(tmp_path, make_sequences((3, 3, 3, 3)))
    name = "features-1" if kind == "npy" else "video-1"
    options = {"out": tmp_path / "out", "model": make_model(), "shard_size": 2}
    ej.sweep(rewrite(tmp_path, "video-1", 0, kind), **options)
    whole = shards_of(tmp_path / "out")
    lose_last_shard(tmp_path / "out")
    assert ej.sweep(rewrite(tmp_path, "video-1", 0, kind), **options).n_explained == 2
    assert shards_of(tmp_path / "out") == whole
    lose_last_shard(tmp_path / "out")
    changed = rewrite(tmp_path, "video-1", 1, kind)
    text = rf"data: expected the features that the sweep .* got others for 1 videos .*\('{name}'\)"
    with pytest.raises(ValueError, match=text):
        ej.sweep(changed, **options)
    assert shards_of(tmp_path / "out") == whole
    assert ej.sweep(changed, **options, overwrite=True).n_explained == 4
    assert shards_of(tmp_path / "out") != whole


def test_files_of_the_same_size_and_time_are_not_read_again(tmp_path, monkeypatch):
    small_set(tmp_path)
    run_sweep(tmp_path, shard_size=2)
    read = []
    contents = ej.data.inputs.Inputs.contents
    monkeypatch.setattr(
        ej.data.inputs.Inputs, "contents", lambda *args: (read.append(args[1]), contents(*args))[1]
    )
    run_sweep(tmp_path, shard_size=2)
    assert not read
    os.utime(tmp_path / "features.hdf", ns=(0, 0))
    assert run_sweep(tmp_path, shard_size=2).n_before == 4
    assert len(read) == 2
    run_sweep(tmp_path, shard_size=2)  # the new time is known
    assert len(read) == 2


def test_data_that_change_during_a_sweep_end_it(tmp_path):
    write_set(tmp_path, make_sequences([3] * 8))
    seen = []

    def touch(_):
        seen.append(_)
        os.utime(tmp_path / "features.hdf", ns=(len(seen), 0))

    text = "data: expected files that stay as they were"
    with pytest.raises(ValueError, match=text):
        run_sweep(tmp_path, shard_size=1, progress=touch)
    array = tmp_path / "x.npy"
    np.save(array, np.zeros((2, 3, WIDTH), np.float32))
    inputs = ej.data.open_inputs(array)
    np.save(array, np.ones((2, 3, WIDTH), np.float32))
    os.utime(array, ns=(0, 0))
    with pytest.raises(ValueError, match=text):
        ej.sweep(inputs, make_model(), tmp_path / "array")


def test_videos_that_changed_are_refused(tmp_path):
    av = pytest.importorskip("av")
    for uid in ("a", "b", "c"):
        (tmp_path / "clips" / uid).mkdir(parents=True)
        for k in range(3):
            image = np.full((8, 8, 3), 20 * k + ord(uid), np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.save(str(tmp_path / "clips" / uid / f"{k}.png"))

    def encoder(frames):
        return frames[:, :3, 0, 0].astype(np.float32) / 255

    def go(**more):
        inputs = ej.data.open_videos(tmp_path / "clips", encoder)
        return ej.sweep(inputs, make_model(), tmp_path / "out", shard_size=1, **more)

    assert go().n_explained == 3
    lose_last_shard(tmp_path / "out")
    os.utime(tmp_path / "clips" / "a" / "0.png", ns=(0, 0))
    assert go().n_explained == 1
    image = tmp_path / "clips" / "a" / "0.png"
    image.write_bytes((tmp_path / "clips" / "b" / "1.png").read_bytes())
    with pytest.raises(ValueError, match=r"got others for 1 videos that are explained \('a'\)"):
        go()
    assert go(overwrite=True).n_explained == 3


# The view


def test_a_flipped_bit_of_the_view_is_detected_and_repaired(tmp_path):
    small_set(tmp_path)
    run_sweep(tmp_path, shard_size=2)
    view = tmp_path / "out" / store.VIEW
    with ej.results.open(tmp_path / "out") as dataset:
        whole = dataset.load()
    content = view.read_bytes()
    places = [content.index(text) for text in (b"video-2", b"kind 1", b"efficiency_gap")]
    for place in [*places, len(content) - 1, *range(100, len(content), len(content) // 4)]:
        spoilt = bytearray(content)
        spoilt[place] ^= 1
        view.write_bytes(spoilt)
        for path in (tmp_path / "out", view):
            with pytest.raises(ValueError, match=r"out: .* damaged results\.nc\. The sweep's comm"):
                ej.results.open(path)
    again = run_sweep(tmp_path, shard_size=2)
    assert (again.n_explained, again.n_before, again.recomputed) == (0, 4, 0)
    with ej.results.open(tmp_path / "out") as dataset:
        assert dataset.load().equals(whole)


def test_sweeps_without_a_checksum_of_the_view_can_be_read_and_continued(tmp_path):
    """Earlier versions wrote such sweeps."""
    small_set(tmp_path)
    run_sweep(tmp_path, shard_size=2)
    manifest = store.read_manifest(tmp_path / "out")
    del manifest["view"], manifest["data"]
    (tmp_path / "out" / store.MANIFEST).write_text(json.dumps(manifest))
    for path in (tmp_path / "out" / "shards").glob("*.json"):
        record = json.loads(path.read_text())
        del record["read"]
        path.write_text(json.dumps(record))
    with ej.results.open(tmp_path / "out") as dataset:
        assert dataset.sizes["video"] == 4
    assert run_sweep(tmp_path, shard_size=2).n_before == 4
    assert "view" in store.read_manifest(tmp_path / "out")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[" * 100_000,
        "{}",
        '{"format": "esv_jax sweep, version 1"}',
        '{"format": "esv_jax sweep, version 1", "identity": {}, "shards": [{"start": 0}]}',
        '{"format": "esv_jax sweep, version 1", "identity": {}, "shards": 3}',
    ],
)
def test_an_invalid_manifest_is_refused(tmp_path, text):
    (tmp_path / store.MANIFEST).write_text(text)
    (tmp_path / store.VIEW).write_text("x")
    with pytest.raises(ValueError, match=r"sweep\.json: expected a sweep's manifest") as caught:
        ej.results.open(tmp_path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


# Videos that fail


def test_videos_that_fail_are_recorded(tmp_path):
    h5py = pytest.importorskip("h5py")
    write_set(tmp_path)
    whole = run_sweep(tmp_path, "whole")
    assert not whole.failures
    with h5py.File(tmp_path / "features.hdf", "r+") as file:
        group = file["validation"]
        rows = group["features"]
        nan = rows[1].copy()
        nan[4] = np.nan
        rows[1] = nan
        rows[4] = rows[4][:-1]  # does not divide into elements
        del group["lengths"]  # as in the original program's files
    told = []
    report = run_sweep(tmp_path, min_elements=3, progress=told.append)
    short = {f"video-{i}" for i, n in enumerate(LENGTHS) if n == 2}
    assert set(report.failures) == {"video-1", "video-4", *short}
    assert "NaN or infinity in element 1" in report.failures["video-1"]
    assert "positive multiple of feature_dim = 3" in report.failures["video-4"]
    assert report.failures["video-2"] == "length: expected at least 3 elements, got 2."
    assert told[-1].done == told[-1].of == len(LENGTHS)
    assert told[-1].failed == len(report.failures)
    with ej.results.open(tmp_path / "out") as dataset, ej.results.open(tmp_path / "whole") as good:
        assert json.loads(dataset.attrs["failures"]) == dict(report.failures)
        for uid in dataset["video"].values:
            if uid in report.failures:
                assert np.isnan(dataset["esv"].sel(video=uid)).all()
                assert int(dataset["failed"].sel(video=uid)) == 1
                with pytest.raises(ValueError, match=f"{uid}: expected a sequence that was expl"):
                    ej.results.load_attribution(dataset, uid)
            else:
                n = int(dataset["length"].sel(video=uid))
                found, expected = (each["esv"].sel(video=uid)[:n] for each in (dataset, good))
                np.testing.assert_array_equal(found, expected)
        assert f"{len(LENGTHS)}, {len(report.failures)} failed" in ej.results.tables.summary(
            dataset
        )
        assert set(ej.results.to_dataframe(dataset)["video"]).isdisjoint(report.failures)
    with pytest.raises(ValueError, match="video 'video-2': expected one that can be explained"):
        run_sweep(tmp_path, "strict", strict=True, min_elements=3)


def test_an_estimator_that_refuses_a_length_is_a_failure(tmp_path):
    write_set(tmp_path, make_sequences((2, 6)))
    report = run_sweep(tmp_path, estimator=["Surrogate", 16])
    assert "at least 3 elements" in report.failures["video-0"]
    assert len(report.failures) == 1


# Memory


def test_blocks_are_halved_when_memory_runs_out(swept, monkeypatch):
    folder, _ = swept
    program = engines.Engine._program
    blocks = []

    def scarce(self, estimator, arguments):
        blocks.append(arguments[1].shape[0])
        if arguments[1].shape[0] > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return program(self, estimator, arguments)

    monkeypatch.setattr(engines.Engine, "_program", scarce)
    report = run_sweep(folder, "scarce")
    assert set(report.block_sizes.values()) == {2}
    assert blocks[:6] == [32, 16, 8, 4, 2, 2]
    with ej.results.open(folder / "out") as whole, ej.results.open(folder / "scarce") as some:
        np.testing.assert_allclose(some["esv"], whole["esv"], rtol=0, atol=2e-6)

    def none(self, estimator, arguments):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(engines.Engine, "_program", none)
    failed = run_sweep(folder, "none", limit=3).failures
    assert set(failed) == {"video-0", "video-1", "video-2"}
    assert "memory: expected space for a video of 2 elements" in failed["video-2"]

    def broken(self, estimator, arguments):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    monkeypatch.setattr(engines.Engine, "_program", broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        run_sweep(folder, "broken")


# Bad input


def test_data_and_model_that_do_not_fit_are_refused(tmp_path):
    write_set(tmp_path)
    features, model = tmp_path / "features.hdf", tmp_path / "model.safetensors"
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=r"do not fit the model: .*the heads' D = 5"):
        ej.sweep(features, make_model(width=5), out)
    with pytest.raises(ValueError, match=r"labels: expected classes 0..2, .* got 3"):
        ej.sweep(features, make_model(n_classes=3), out)
    with pytest.raises(ValueError, match="key: expected a PRNG key"):
        ej.sweep(features, model, out, estimator=ej.Constructive(4, 2))
    with pytest.raises(TypeError, match="model: expected a TrainedModel, its file, or a game"):
        ej.sweep(features, 3, out)
    with pytest.raises(ValueError, match="prior: expected None beside a model"):
        ej.sweep(features, model, out, prior=np.ones(4) / 4)
    with pytest.raises(ValueError, match="frames: expected"):
        ej.sweep(features, model, out, frames=0)
    with pytest.raises(ValueError, match="uids: expected distinct uids, got 'video-1' 2 times"):
        ej.sweep(features, model, out, uids=["video-1", "video-0", "video-1"])
    with pytest.raises(ValueError, match="data: expected at least one video"):
        ej.sweep(features, model, out, limit=0)
    write_set(tmp_path, labels=False)
    with pytest.raises(ValueError, match="classes: expected labels for gt, got none"):
        ej.sweep(features, model, out, classes="gt")
    assert not out.exists()
