"""Training: results, history, resuming, errors."""

import contextlib
import errno
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from esv_jax import models
from esv_jax.models.evaluation import draw_subsequences, pad_examples
from esv_jax.models.heads import tsn_logits
from esv_jax.models.training import class_prior, feature_moments, hold_out

D, C = 3, 2
SMALL = models.TrainConfig(
    n_max=3,
    hidden_dim=16,
    dropout=0.1,
    batch_size=32,
    max_epochs=6,
    patience=100,
    learning_rate=1e-2,
    validation_fraction=0.25,
    validation_subsequences=4,
)


def order_task(m=80, seed=0):
    """Class 1 goes up, class 0 goes down: one element is not enough, any two in order are."""
    rng = np.random.default_rng(seed)
    sequences, labels = [], np.arange(m) % 2
    for label in labels:
        n = rng.integers(2, 7)
        steps = np.arange(n) - (n - 1) / 2
        level = rng.uniform(-3, 3) + steps * (1.0 if label else -1.0)
        rest = rng.normal(size=(n, D - 1)) * 0.1
        sequences.append(np.column_stack([5 + 2 * level, rest]).astype(np.float32))
    return sequences, labels


def same_heads(one, other):
    chex.assert_trees_all_equal(one.heads, other.heads)


@pytest.fixture(scope="module")
def trained():
    return models.train_heads(*order_task(), C, SMALL)


@pytest.mark.slow
def test_order_is_learned_by_every_scale_above_one():
    config = replace(SMALL, max_epochs=40, hidden_dim=32)
    model = models.train_heads(*order_task(m=200), C, config)
    result = models.evaluate(model.heads, *order_task(m=100, seed=1), key=jax.random.key(0))
    assert result.accuracy > 0.95
    assert result.scale_accuracy[0] < 0.75  # one element is not enough
    assert result.scale_accuracy[1:].min() > 0.95
    assert result.logits.shape == (100, C)


def test_history_has_a_row_per_epoch(trained):
    history = trained.history
    assert history.n_epochs == 6
    assert not history.interrupted
    chex.assert_shape([history.train_loss, history.validation_scale_accuracy], (6, 3))
    chex.assert_shape([history.validation_accuracy, history.validation_loss], (6,))
    assert np.isfinite(history.train_loss).all()
    best = history.best_epoch - 1
    assert history.validation_accuracy[best] == history.validation_accuracy.max()
    np.testing.assert_array_equal(trained.prior, [0.5, 0.5])
    assert trained.class_names == ("0", "1")
    assert trained.config == SMALL


def test_the_seed_determines_the_result(trained):
    same_heads(models.train_heads(*order_task(), C, SMALL), trained)
    other = models.train_heads(*order_task(), C, replace(SMALL, seed=1))
    assert np.abs(other.heads.w1 - trained.heads.w1).max() > 0


class Stop(Exception):
    """Ends a run as a kill would."""


def stop_after(epochs, error):
    def callback(epoch, metrics):
        assert set(metrics) == {"train_loss", "validation_accuracy", "validation_loss"}
        if epoch == epochs:
            raise error

    return callback


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
def test_a_resumed_run_gives_the_same_bits(trained, tmp_path, error):
    data = order_task()
    folder = tmp_path / "state"
    try:
        part = models.train_heads(
            *data, C, SMALL, checkpoint_dir=folder, callback=stop_after(3, error)
        )
        assert part.history.interrupted
        assert part.history.n_epochs == 3
    except Stop:
        pass
    seen = []
    resumed = models.train_heads(
        *data, C, SMALL, checkpoint_dir=folder, callback=lambda epoch, _: seen.append(epoch)
    )
    assert seen == [4, 5, 6]
    assert not resumed.history.interrupted
    same_heads(resumed, trained)
    np.testing.assert_equal(vars(resumed.history), vars(trained.history))
    # A run that is over is read back, not trained on.
    same_heads(models.train_heads(*data, C, SMALL, checkpoint_dir=folder), trained)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """Folder of a run stopped after 3 epochs, with the states of epochs 2 and 3."""
    folder = tmp_path_factory.mktemp("stopped")
    with contextlib.suppress(Stop):
        models.train_tsn(
            *order_task(), C, SMALL, checkpoint_dir=folder, callback=stop_after(3, Stop)
        )
    return folder


def damaged_copies(stopped, folder, damage, epoch, most=None):
    """A copy of the folder for each file of an epoch, with `damage` done to it."""
    names = sorted(p.relative_to(stopped) for p in (stopped / epoch).rglob("*") if p.is_file())
    assert len(names) > 5
    for name in names[:most]:
        copy = folder / f"{epoch}-{str(name).replace('/', '-')}"
        shutil.copytree(stopped, copy)
        damage(copy / name)
        yield copy


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 16
    path.write_bytes(content)


@pytest.mark.parametrize("most", [2, pytest.param(None, marks=pytest.mark.slow)])
@pytest.mark.parametrize("damage", [flip, Path.unlink], ids=["flipped bit", "missing file"])
def test_training_resumes_from_the_state_before_a_damaged_one(stopped, tmp_path, damage, most):
    data = order_task()
    whole = models.train_tsn(*data, C, SMALL)
    for folder in damaged_copies(stopped, tmp_path, damage, "3", most):
        with pytest.warns(UserWarning, match="of epoch 3 is damaged. Training continues from epo"):
            same_heads(models.train_tsn(*data, C, SMALL, checkpoint_dir=folder), whole)
        same_heads(models.train_tsn(*data, C, SMALL, checkpoint_dir=folder), whole)  # no warning
    for folder in damaged_copies(stopped, tmp_path, damage, "2", most):  # not read any more
        same_heads(models.train_tsn(*data, C, SMALL, checkpoint_dir=folder), whole)


def test_a_read_error_of_undamaged_files_deletes_no_state(stopped, tmp_path, monkeypatch):
    folder = tmp_path / "state"
    shutil.copytree(stopped, folder)
    before = sorted(folder.rglob("*"))

    def failing(*args, **kwargs):
        raise OSError("the disk does not answer")

    monkeypatch.setattr(ocp.CheckpointManager, "restore", failing)
    with pytest.raises(OSError, match="the disk does not answer"):
        models.train_tsn(*order_task(), C, SMALL, checkpoint_dir=folder)
    assert sorted(folder.rglob("*")) == before


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="space cannot be reserved here")
def test_a_full_disk_is_refused_before_a_state_is_written(stopped, tmp_path, monkeypatch):
    folder = tmp_path / "state"
    shutil.copytree(stopped, folder)
    before = sorted(folder.rglob("*"))

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", full)
        with pytest.raises(OSError, match=r"free space, got a full disk at .*state \(No space"):
            models.train_tsn(*order_task(), C, SMALL, checkpoint_dir=folder)
    assert sorted(folder.rglob("*")) == before
    whole = models.train_tsn(*order_task(), C, SMALL)
    same_heads(models.train_tsn(*order_task(), C, SMALL, checkpoint_dir=folder), whole)


def test_a_run_with_only_damaged_states_is_refused(stopped, tmp_path):
    folder = tmp_path / "state"
    shutil.copytree(stopped, folder)
    for epoch in ("2", "3"):
        flip(folder / epoch / "state" / "manifest.ocdbt")
    before = sorted(folder.rglob("*"))
    with pytest.raises(ValueError, match=r"undamaged state, got .*state, where the state of epoch"):
        models.train_tsn(*order_task(), C, SMALL, checkpoint_dir=folder)
    assert sorted(folder.rglob("*")) == before


def test_resuming_with_other_settings_or_data_is_refused(tmp_path):
    data, config = order_task(), SMALL
    models.train_tsn(*data, C, config, checkpoint_dir=tmp_path)
    says = r"checkpoint_dir: expected a run with learning_rate=0.01, got learning_rate=0.5. Use an"
    with pytest.raises(ValueError, match=says):
        models.train_tsn(*data, C, replace(config, learning_rate=0.5), checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match="a run with training data="):
        models.train_tsn(*order_task(seed=3), C, config, checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match="a run with model='Tsn', got model='MultiScaleHeads'"):
        models.train_heads(*data, C, config, checkpoint_dir=tmp_path)


def test_states_are_saved_every_few_epochs_and_at_the_end(tmp_path):
    def steps():
        return sorted(int(path.name) for path in tmp_path.iterdir() if path.name.isdigit())

    seen = []
    models.train_tsn(
        *order_task(),
        C,
        replace(SMALL, max_epochs=5),
        checkpoint_dir=tmp_path,
        checkpoint_every=2,
        callback=lambda epoch, _: seen.append(steps()),
    )
    assert seen == [[], [2], [2], [2, 4], [2, 4]]
    assert steps() == [4, 5]


@pytest.fixture
def ctrl_c():
    """Restores the default handler of Ctrl-C, which is off for processes in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_while_saving_is_delayed_until_the_state_is_written(tmp_path, monkeypatch, ctrl_c):
    save = ocp.CheckpointManager.save

    def interrupted(manager, step, **arguments):
        if step == 2:
            signal.raise_signal(signal.SIGINT)
        return save(manager, step, **arguments)

    monkeypatch.setattr(ocp.CheckpointManager, "save", interrupted)
    data = order_task()
    part = models.train_tsn(*data, C, SMALL, checkpoint_dir=tmp_path)
    assert part.history.interrupted
    assert part.history.n_epochs == 2
    assert (tmp_path / "2").is_dir()
    resumed = models.train_tsn(*data, C, SMALL, checkpoint_dir=tmp_path)
    same_heads(resumed, models.train_tsn(*data, C, SMALL))


def test_ctrl_c_keeps_the_best_epoch_so_far():
    data = order_task()
    part = models.train_tsn(*data, C, SMALL, callback=stop_after(2, KeyboardInterrupt))
    assert part.history.interrupted
    assert part.history.n_epochs == 2


def test_ctrl_c_before_the_end_of_the_first_epoch_propagates(monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("esv_jax.models.loop._after_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        models.train_tsn(*order_task(), C, SMALL)


@pytest.mark.slow
def test_patience_ends_the_run_and_the_best_epoch_is_kept():
    sequences, labels = order_task()
    backwards = ([x[::-1] for x in sequences], labels)  # the better on one, the worse on the other
    config = replace(SMALL, max_epochs=60, patience=3, learning_rate=0.05)
    history = models.train_heads(sequences, labels, C, config, validation=backwards).history
    assert history.n_epochs == history.best_epoch + 3 < 60
    assert history.validation_accuracy[history.best_epoch - 1] == history.validation_accuracy.max()


def test_without_validation_the_last_epoch_is_kept():
    config = replace(SMALL, validation_fraction=0.0, max_epochs=2, patience=1)
    history = models.train_tsn(*order_task(), C, config).history
    assert (history.best_epoch, history.n_epochs) == (2, 2)
    assert np.isnan(history.validation_accuracy).all()


@pytest.mark.slow
def test_a_short_sequence_trains_only_the_scales_up_to_its_length():
    sequences, labels = order_task()
    short = [x[:2] if i else np.concatenate([x, x, x]) for i, x in enumerate(sequences)]
    config = replace(SMALL, validation_fraction=0.0, max_epochs=1, batch_size=10, batch_norm=True)
    model = models.train_heads(short, labels, C, config)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(model.heads))
    assert np.isfinite(model.history.train_loss).all()


def test_features_behind_a_relu_are_not_standardised():
    config = replace(SMALL, input_relu=True)
    model = models.train_tsn(*order_task(), C, config)
    assert model.heads.input_relu
    with_it = models.train_tsn(*order_task(), C, replace(config, standardise=False))
    same_heads(model, with_it)


@pytest.mark.slow
def test_tsn_learns_classes_of_single_elements():
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    sequences = [rng.normal(size=(rng.integers(1, 9), 3)).astype(np.float32) for _ in labels]
    sequences = [
        x + 3 * np.eye(3, dtype=np.float32)[c] for x, c in zip(sequences, labels, strict=True)
    ]
    model = models.train_tsn(sequences, labels, 3, replace(SMALL, max_epochs=40))
    result = models.evaluate(model.heads, sequences, labels, key=jax.random.key(0))
    assert result.accuracy > 0.9
    for i in (0, 7):
        x = jnp.asarray(sequences[i])
        want = tsn_logits(model.heads, x, jnp.ones(len(x), bool))
        np.testing.assert_allclose(result.logits[i], want, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_training_works_in_x64_mode(x64):
    model = models.train_heads(*order_task(m=20), C, replace(SMALL, max_epochs=1))
    assert model.heads.w1.dtype == np.float32


def test_progress_bar_is_shown_on_request(capsys):
    models.train_tsn(*order_task(), C, SMALL, progress=True)
    assert "6/6" in capsys.readouterr().err


def test_drawn_subsequences_are_ordered_uniform_and_within_the_sequence():
    keys = jax.random.split(jax.random.key(0), 4000)
    sizes = jnp.array([1, 2, 0])

    def draw(key):
        return draw_subsequences(sizes, jnp.asarray(4), 3, 6, key=key)

    positions, mask = jax.jit(jax.vmap(draw))(keys)
    np.testing.assert_array_equal(mask[0], [[1, 0, 0], [1, 1, 0], [0, 0, 0]])
    pairs = np.asarray(positions[:, 1, :2])
    assert (pairs[:, 0] < pairs[:, 1]).all()
    counts = np.bincount(pairs[:, 0] * 4 + pairs[:, 1], minlength=16)
    seen = counts[counts > 0]
    assert len(seen) == 6  # 4 choose 2
    np.testing.assert_allclose(seen / len(keys), 1 / 6, atol=5 * np.sqrt(5 / 36 / len(keys)))


def test_evaluation_averages_over_the_scales_up_to_the_length(rng):
    heads = [
        {
            "w1": np.zeros((s * D, 1)),
            "b1": np.zeros(1),
            "w2": np.zeros((1, C)),
            "b2": [0.0, 4.0 * s],
        }
        for s in (1, 2, 3)
    ]
    stack = models.stack_heads(heads)
    sequences = [np.ones((n, D), np.float32) for n in (1, 2, 5)]
    result = models.evaluate(stack, sequences, [1, 1, 0], key=jax.random.key(0), n_subsequences=2)
    np.testing.assert_allclose(result.logits[:, 1], [4, 6, 8], rtol=1e-6)
    np.testing.assert_allclose(result.accuracy, 2 / 3, rtol=1e-6)
    np.testing.assert_allclose(result.scale_accuracy, [2 / 3, 1 / 2, 0], rtol=1e-6)
    with pytest.raises(ValueError, match="sequences: expected feature width D = 3, got 2"):
        models.evaluate(stack, [np.ones((2, 2))], [0], key=jax.random.key(0))


def test_a_share_of_each_class_is_held_out():
    labels = np.repeat([0, 1, 2], [40, 20, 1])
    sequences = [np.full((1, 1), i, np.float32) for i in range(61)]
    examples = pad_examples(sequences, labels, 3)
    rest, held = hold_out(examples, 0.25, key=jax.random.key(0))
    np.testing.assert_array_equal(np.bincount(held.labels, minlength=3), [10, 5, 0])
    everyone = np.concatenate([rest.features, held.features]).ravel()
    np.testing.assert_array_equal(np.sort(everyone), np.arange(61))
    assert hold_out(examples, 0.0, key=jax.random.key(0)) == (examples, None)
    other = hold_out(examples, 0.25, key=jax.random.key(1))[1]
    assert (other.features != held.features).any()


@pytest.mark.parametrize(
    ("counts", "held_out"),
    [
        ([5] * 10, [1] * 10),  # a tenth of five is none
        ([2] * 10, [1] * 10),
        ([40, 26, 3, 1], [4, 3, 1, 0]),
        ([1] * 10, None),
    ],
)
def test_by_default_a_tenth_and_at_least_one_of_each_class_that_has_two(counts, held_out):
    labels = np.repeat(np.arange(len(counts)), counts)
    sequences = [np.full((1, 1), i, np.float32) for i in range(len(labels))]
    examples = pad_examples(sequences, labels, len(counts))
    fraction = models.TrainConfig().validation_fraction
    rest, held = hold_out(examples, fraction, key=jax.random.key(0))
    if held_out is None:
        assert held is None and rest is examples
        return
    np.testing.assert_array_equal(np.bincount(held.labels, minlength=len(counts)), held_out)
    everyone = np.concatenate([rest.features, held.features]).ravel()
    np.testing.assert_array_equal(np.sort(everyone), np.arange(len(labels)))


def test_prior_and_moments_are_those_of_the_training_set():
    np.testing.assert_allclose(class_prior(np.array([0, 0, 2, 0]), 3), [0.75, 0, 0.25])
    np.testing.assert_allclose(class_prior(np.array([0, 0, 2, 0]), 3, 1.0), [4 / 7, 1 / 7, 2 / 7])
    sequences = [np.array([[1.0, 5.0], [3.0, 5.0]]), np.array([[5.0, 5.0]])]
    mean, std = feature_moments(pad_examples(sequences, [0, 1], 2))
    np.testing.assert_allclose(mean, [3, 5])
    np.testing.assert_allclose(std, [np.sqrt(8 / 3), 1], rtol=1e-6)


GOOD = [np.ones((4, D), np.float32)] * 8
LABELS = np.arange(8) % 2


@pytest.mark.parametrize(
    ("sequences", "labels", "settings", "error", "says"),
    [
        ([], [], {}, ValueError, "sequences: expected at least one sequence, got none"),
        ([np.ones(3)], [0], {}, ValueError, r"sequences\[0\]: expected shape \(n, D\), got \(3,\)"),
        (
            [np.ones((2, 3)), np.ones((2, 4))],
            [0, 1],
            {},
            ValueError,
            r"sequences\[1\]: expected shape \(n, D\) with D = 3, got \(2, 4\)",
        ),
        ([np.ones((0, 3))], [0], {}, ValueError, r"sequences\[0\]: expected at least one element"),
        ([np.full((1, 3), np.nan)], [0], {}, ValueError, r"sequences\[0\]: expected finite values"),
        ([np.ones((1, 3), int)], [0], {}, TypeError, r"sequences\[0\]: expected a floating-point"),
        (GOOD, LABELS[1:], {}, ValueError, r"labels: expected shape \(8,\), one per sequence"),
        (GOOD, LABELS + 1, {}, ValueError, r"labels\[1\]: expected classes in 0..1, got 2"),
        (
            GOOD,
            LABELS * 1.0,
            {},
            TypeError,
            r"labels: expected integers, got dtype float64. Number",
        ),
        (GOOD, LABELS, {"n_max": 5}, ValueError, "n_max: expected at most 4, the longest training"),
        (
            GOOD,
            LABELS,
            {"validation_fraction": 0.01},
            ValueError,
            "validation_fraction: expected a share that holds out at least one example, got 0.01",
        ),
    ],
)
def test_bad_training_data_is_refused(sequences, labels, settings, error, says):
    with pytest.raises(error, match=says):
        models.train_heads(sequences, labels, C, replace(SMALL, **settings))


def test_a_diverging_run_is_ended():
    says = "learning_rate: expected a rate at which training converges, got a mean loss of .* Lower"
    with pytest.raises(ValueError, match=says):
        models.train_tsn(*order_task(), C, replace(SMALL, learning_rate=1e38))


def test_bad_validation_data_is_refused():
    with pytest.raises(ValueError, match=r"validation: expected feature width D = 3, got 2"):
        models.train_heads(GOOD, LABELS, C, SMALL, validation=([np.ones((1, 2))], [0]))
    with pytest.raises(
        ValueError, match=r"validation labels\[0\]: expected classes in 0..1, got 2"
    ):
        models.train_heads(GOOD, LABELS, C, SMALL, validation=([np.ones((1, 3))], [2]))
    with pytest.raises(ValueError, match="checkpoint_every: expected an integer >= 1, got 0"):
        models.train_heads(GOOD, LABELS, C, SMALL, checkpoint_every=0)
    with pytest.raises(ValueError, match="class_names: expected 2 names, got 3"):
        models.train_heads(GOOD, LABELS, C, SMALL, class_names=["a", "b", "c"])


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"n_max": 0}, ValueError, "n_max: expected an integer >= 1, got 0"),
        ({"batch_size": 1.5}, TypeError, "batch_size: expected an integer, got float 1.5"),
        ({"dropout": 1.0}, ValueError, r"dropout: expected a share in \[0, 1\), got 1.0"),
        (
            {"weight_decay": -1.0},
            ValueError,
            "weight_decay: expected a finite number >= 0, got -1.0",
        ),
        (
            {"learning_rate": 0.0},
            ValueError,
            "learning_rate: expected a finite number > 0, got 0.0",
        ),
        ({"seed": -1}, ValueError, "seed: expected an integer >= 0"),
    ],
)
def test_bad_settings_are_refused(settings, error, says):
    with pytest.raises(error, match=says):
        models.TrainConfig(**settings)


def test_settings_have_help_on_the_command_line(capsys):
    tyro = pytest.importorskip("tyro")
    with pytest.raises(SystemExit):
        tyro.cli(models.TrainConfig, args=["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "Share of all steps in which the learning rate" in shown
