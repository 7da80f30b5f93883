"""Synthetic sequences: statistics of paired classes, ground truth, invalid arguments."""

import jax
import numpy as np
import pytest

from esv_jax.data import temporal_order

SIZES = [  # few, since every new shape compiles
    {"n_sequences": 1, "n": 3, "n_pairs": 1},
    {"n_sequences": 30, "n": 8, "n_pairs": 3},
    {"n_sequences": 30, "n": 8, "n_pairs": 4, "n_events": 3},
    {"n_sequences": 7, "n": 4, "n_pairs": 2, "n_events": 4, "min_length": 4},
]
MANY = 4000  # sequences wherever statistics are looked at


def accuracy(train, train_labels, test, test_labels):
    """Accuracy of a least-squares classifier of two classes."""

    def with_bias(x):
        return np.concatenate([x, np.ones((len(x), 1))], axis=1)

    weights = np.linalg.lstsq(with_bias(train), 2.0 * train_labels - 1, rcond=None)[0]
    return np.mean((with_bias(test) @ weights > 0) == test_labels)


@pytest.mark.parametrize("sizes", SIZES)
def test_shapes_balance_and_events_of_each_class(sizes):
    data = temporal_order(**sizes, key=jax.random.key(0))
    n_sequences, n, n_classes = sizes["n_sequences"], sizes["n"], 2 * sizes["n_pairs"]
    assert data.features.shape == (n_sequences, n, 16) and data.features.dtype == np.float32
    assert data.labels.shape == data.lengths.shape == (len(data),) == (n_sequences,)
    assert data.events.shape == data.informative.shape == data.mask.shape == (n_sequences, n)
    assert data.mask.all() and (data.lengths == n).all()
    counts = np.bincount(data.labels, minlength=n_classes)
    assert counts.max() - counts.min() <= 1
    for events, informative, label in zip(data.events, data.informative, data.labels, strict=True):
        names = [data.event_names[event] for event in events[informative]]
        assert " then ".join(names) == data.class_names[label]
        assert (events[~informative] == -1).all()


@pytest.mark.parametrize("sizes", SIZES)
def test_paired_classes_are_reversed(sizes):
    names = temporal_order(**sizes, key=jax.random.key(0)).class_names
    assert len(names) == len(set(names)) == 2 * sizes["n_pairs"]
    for one, other in zip(names[::2], names[1::2], strict=True):
        assert one.split(" then ") == other.split(" then ")[::-1]


def test_class_names():
    names = temporal_order(1, key=jax.random.key(0)).class_names
    assert names == (
        "circle then square",
        "square then circle",
        "square then triangle",
        "triangle then square",
    )


def test_without_noise_elements_are_prototypes():
    data = temporal_order(MANY, key=jax.random.key(0), noise=0.0, feature_dim=7)
    for event in range(len(data.event_names)):
        assert len(np.unique(data.features[data.events == event], axis=0)) == 1
    backgrounds = np.unique(data.features[data.events == -1], axis=0)
    assert len(backgrounds) == 4
    norms = np.linalg.norm(data.features.reshape(-1, 7), axis=1)
    np.testing.assert_allclose(norms, np.sqrt(7), rtol=1e-5)


def test_standard_deviation_of_the_noise():
    clean = temporal_order(MANY, key=jax.random.key(0), noise=0.0)
    noisy = temporal_order(MANY, key=jax.random.key(0), noise=0.5)
    residual = noisy.features - clean.features
    # MANY * 8 * 16 draws: the standard error of the deviation is 0.5 / sqrt(twice as many).
    assert abs(residual.std() - 0.5) < 5 * 0.5 / np.sqrt(2 * residual.size)


def test_paired_classes_have_equal_frame_statistics():
    data = temporal_order(MANY, key=jax.random.key(1), n_events=3)
    bags = data.features.mean(axis=1)  # (V, D)
    moments = np.concatenate([bags, bags**2, data.features.max(axis=1)], axis=1)
    for pair in range(2):
        one, other = (moments[data.labels == 2 * pair + side] for side in (0, 1))
        error = np.sqrt(one.var(axis=0) / len(one) + other.var(axis=0) / len(other))
        z = (one.mean(axis=0) - other.mean(axis=0)) / error  # (3 D,)
        assert np.abs(z).max() < 4
        assert 0.5 < np.sqrt(np.mean(z**2)) < 1.5


def test_positions_of_events_do_not_depend_on_the_class():
    data = temporal_order(MANY, key=jax.random.key(2), n_pairs=1)
    share = [data.informative[data.labels == label].mean(axis=0) for label in (0, 1)]  # (n,)
    # Each element is an event with probability 2/8.
    error = np.sqrt(0.25 * 0.75 / (MANY / 2))
    assert np.abs(np.array(share) - 0.25).max() < 4 * error


def test_classes_are_separable_by_order_alone():
    # Where the events stand is linear in the concatenated frames, so a linear model will do.
    train = temporal_order(MANY, key=jax.random.key(3), n_pairs=1)
    test = temporal_order(MANY, key=jax.random.key(4), n_pairs=1)
    wide = accuracy(
        train.features.reshape(MANY, -1), train.labels, test.features.reshape(MANY, -1), test.labels
    )
    bag = accuracy(train.features.mean(1), train.labels, test.features.mean(1), test.labels)
    assert wide > 0.9
    assert abs(bag - 0.5) < 4 * np.sqrt(0.25 / MANY)


def test_lengths_and_padding():
    data = temporal_order(500, key=jax.random.key(0), n=9, min_length=3)
    assert (data.lengths.min(), data.lengths.max()) == (3, 9)
    np.testing.assert_array_equal(data.mask.sum(axis=1), data.lengths)
    assert (data.features[~data.mask] == 0).all()
    assert (data.features[data.mask] != 0).any(axis=-1).all()
    assert not data.informative[~data.mask].any()
    np.testing.assert_array_equal(data.informative.sum(axis=1), 2)


def test_same_key_same_data():
    one, other = (temporal_order(20, key=jax.random.key(5), min_length=4) for _ in range(2))
    for name in ("features", "lengths", "labels", "events"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    another = temporal_order(20, key=jax.random.key(6), min_length=4)
    assert (one.features != another.features).any()


def test_prototypes_depend_on_the_world_and_not_on_the_key():
    def circle(key, world):
        data = temporal_order(20, key=jax.random.key(key), world=world, noise=0.0)
        return data.features[data.events == 0][0]

    np.testing.assert_array_equal(circle(0, 0), circle(1, 0))
    assert (circle(0, 0) != circle(0, 1)).all()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"n_sequences": 0}, "n_sequences: expected an integer >= 1, got 0"),
        ({"n_pairs": 0}, "n_pairs: expected an integer >= 1, got 0"),
        ({"n_events": 1}, "n_events: expected an integer >= 2, got 1"),
        ({"n": 1}, "n: expected an integer >= 2, got 1. Every event needs an element"),
        ({"feature_dim": 0}, "feature_dim: expected an integer >= 1, got 0"),
        ({"world": -1}, "world: expected an integer >= 0, got -1"),
        ({"min_length": 1}, "min_length: expected an integer >= 2, got 1"),
        ({"min_length": 9}, "min_length: expected at most n = 8, got 9"),
        ({"noise": -0.1}, r"noise: expected a standard deviation of 0 or more, got -0\.1"),
        ({"noise": float("nan")}, "noise: expected a standard deviation of 0 or more, got nan"),
        ({"n_pairs": 12}, r"n_pairs: expected .* <= 12 events, got 13\. Lower one of the two"),
        ({"key": None}, "key: expected a PRNG key, got None"),
    ],
)
def test_values_refused(arguments, text):
    with pytest.raises(ValueError, match=text):
        temporal_order(**({"n_sequences": 4, "key": jax.random.key(0)} | arguments))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"n": 8.0}, r"n: expected an integer, got float 8\.0"),
        ({"key": 0}, "key: expected a typed PRNG key, got int"),
    ],
)
def test_kinds_refused(arguments, text):
    with pytest.raises(TypeError, match=text):
        temporal_order(**({"n_sequences": 4, "key": jax.random.key(0)} | arguments))
