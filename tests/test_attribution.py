import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from scipy import stats

import esv_jax as ej


@pytest.fixture
def att():
    values = jnp.asarray([[0.2, -0.1], [0.0, 0.3], [-0.1, -0.3]])
    return ej.Attribution(
        values=values,
        scores=jnp.asarray([0.6, 0.4]),
        prior=jnp.asarray([0.5, 0.5]),
        std_error=jnp.full((3, 2), 0.01),
        n_evaluations=7,
    )


def test_views(att):
    np.testing.assert_allclose(att.for_class(1), [-0.1, 0.3, -0.3])
    np.testing.assert_allclose(att.contrast(0, 1), [0.3, -0.3, 0.2], atol=1e-7)
    np.testing.assert_array_equal(att.supporting(0), [True, False, False])
    np.testing.assert_array_equal(att.distracting(0), [False, True, True])  # zero is distracting
    np.testing.assert_allclose(att.evidential_score(), [0.1, -0.1], atol=1e-7)
    np.testing.assert_allclose(att.evidential_score(1), -0.1, atol=1e-7)
    np.testing.assert_allclose(att.efficiency_gap(), 0, atol=1e-7)
    assert (att.n, att.n_classes) == (3, 2)


def test_intervals(att):
    low, high = att.interval(0.95)
    np.testing.assert_allclose(high - att.values, 0.0195996, rtol=1e-4)
    np.testing.assert_allclose(att.values - low, high - att.values, rtol=1e-4)


def test_one_sequence_refuses_len_and_index(att):
    with pytest.raises(TypeError, match=r"expected a batch .* elements is \.n"):
        len(att)
    with pytest.raises(TypeError, match=r"expected a batch to index"):
        att[0]
    assert att and att == att


def test_xarray_and_frame(att):
    dataset = att.to_xarray(("cat", "dog"))
    assert dict(dataset.sizes) == {"element": 3, "class": 2, "scale": 3}
    assert float(dataset["esv"].sel({"class": "dog"}, drop=True)[1]) == pytest.approx(0.3)
    assert dataset.attrs == {"exact": 0, "n_evaluations": 7}
    frame = att.to_dataframe(("cat", "dog"))
    assert list(frame.columns) == ["element", "class", "esv", "std_error"]
    assert len(frame) == 6
    with pytest.raises(ValueError, match="class_names: expected 2 names, got 1"):
        att.to_xarray(("cat",))


def test_relative_error_and_pearson(rng):
    approx, exact = rng.normal(size=(2, 5, 9)).astype(np.float32)
    expected = np.abs(approx - exact).mean(1) / np.abs(exact).mean(1)
    np.testing.assert_allclose(ej.metrics.relative_error(approx, exact), expected, rtol=1e-5)
    for row in range(5):
        r = stats.pearsonr(approx[row], exact[row])[0]
        np.testing.assert_allclose(ej.metrics.pearson(approx[row], exact[row]), r, atol=1e-5)
    assert float(ej.metrics.relative_error(exact[0], exact[0])) == 0
    assert float(ej.metrics.pearson(exact[0], 2 * exact[0])) == pytest.approx(1, abs=1e-6)


def test_lad_slope_is_that_of_a_linear_program(rng, x64):
    for n in (2, 5, 9, 40):
        exact, approx = rng.normal(size=(2, n))
        # minimise sum of u over (slope, u) with -u <= approx - slope exact <= u
        cost = np.concatenate([[0.0], np.ones(n)])
        rows = np.block([[-exact[:, None], -np.eye(n)], [exact[:, None], -np.eye(n)]])
        bounds = [(None, None)] + [(0, None)] * n
        solved = scipy.optimize.linprog(
            cost, rows, np.concatenate([-approx, approx]), bounds=bounds
        )
        assert solved.status == 0
        assert float(ej.metrics.lad_slope(approx, exact)) == pytest.approx(solved.x[0], abs=1e-9)


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_lad_slope_minimises_absolute_deviations(rng, n):
    approx, exact = rng.normal(size=(2, 20, n)).astype(np.float32)
    slopes = np.asarray(ej.metrics.lad_slope(approx, exact))
    for a, e, slope in zip(approx, exact, slopes, strict=True):

        def loss(t, a=a, e=e):
            return np.abs(a - t * e).sum()

        best = min(loss(ratio) for ratio in a / e)  # a vertex of a convex polygon
        grid = min(loss(t) for t in np.linspace(-20, 20, 4001))
        assert best <= grid + 1e-5
        assert loss(slope) <= best + 1e-5
    np.testing.assert_allclose(ej.metrics.lad_slope(3 * exact, exact), 3, rtol=1e-5)
    assert np.isnan(ej.metrics.lad_slope(exact[0], 0 * exact[0]))


def test_agreement_refuses_bad_input():
    with pytest.raises(
        ValueError, match=r"approx: expected the shape of exact, \(3,\), got \(2,\)"
    ):
        ej.metrics.pearson(np.zeros(2, np.float32), np.zeros(3, np.float32))
    with pytest.raises(TypeError, match="exact: expected a floating-point array"):
        ej.metrics.lad_slope(np.zeros(2, np.float32), np.zeros(2, int))


@pytest.mark.parametrize(
    ("c", "error"),
    [
        (99, ValueError),
        (-1, ValueError),
        (jnp.asarray(99), ValueError),
        (np.int64(2), ValueError),
        (True, TypeError),
        (np.bool_(True), TypeError),
        (1.0, TypeError),
        (jnp.asarray(1.0), TypeError),
        ("cat", TypeError),
    ],
)
def test_classes_are_never_clamped(att, c, error):
    for method in (att.for_class, att.supporting, att.distracting, att.evidential_score):
        range_of_classes = " in 0..1" if error is ValueError else ""
        with pytest.raises(error, match="class: expected a class" + range_of_classes):
            method(c)
    with pytest.raises(error, match="class: expected a class"):
        att.contrast(c, 0)


def test_traced_classes_are_taken(att):
    np.testing.assert_array_equal(jax.jit(att.for_class)(jnp.asarray(1)), att.for_class(1))
    np.testing.assert_array_equal(att.for_class(jnp.asarray(1)), att.for_class(1))
