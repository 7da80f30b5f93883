"""Choice of the values of a sequence that `esv-jax explain` shows."""

import jax.numpy as jnp
import numpy as np
import pytest

from esv_jax.attribution import Attribution
from esv_jax.cli.explain_output import Explanation, choose

NAMES = ("still", "walk", "run")
VALUES = np.array([[0.1, 0.2, -0.3], [0.25, 0.0, -0.25]], np.float32)
PRIOR = np.array([0.2, 0.3, 0.5], np.float32)
SCORES = PRIOR + VALUES.sum(0)  # the first is highest


def found(label):
    att = Attribution(jnp.asarray(VALUES), jnp.asarray(SCORES), jnp.asarray(PRIOR), exact=True)
    return Explanation("a", label, None, att, np.array([3, 9]), {})


@pytest.mark.parametrize(
    ("label", "name", "c"),
    [(1, "gt", 1), (-1, "gt", 0), (1, "pred", 0), (-1, "run", 2), (0, "2", 2)],
)
def test_a_class_by_name(label, name, c):
    shown = choose(found(label), (name,), NAMES)
    assert (shown.classes, shown.title) == ((c,), NAMES[c])
    np.testing.assert_array_equal(shown.values, VALUES[:, c])
    np.testing.assert_allclose(shown.evidence, VALUES[:, c].sum(), rtol=1e-6)


def test_two_classes_are_told_apart():
    shown = choose(found(2), ("gt", "pred"), NAMES)
    assert (shown.classes, shown.title) == ((2, 0), "run - still")
    np.testing.assert_allclose(shown.values, VALUES[:, 2] - VALUES[:, 0])
    np.testing.assert_allclose(shown.evidence, shown.values.sum(), rtol=1e-6)


def test_an_unknown_class_is_refused():
    with pytest.raises(ValueError, match="fly"):
        choose(found(0), ("fly",), NAMES)
