"""Attribution methods that the figures compare, for the true class of each sequence."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import esv_jax as ej
from experiments.play_fair.subjects import Elements, Subject, true_class_esv

METHODS = (
    "ESV",
    "Integrated Gradients",
    "Grad-CAM",
    "gradient x input",
    "leave-one-out",
    "leave-one-in",
    "centre-out",
    "edges-in",
    "random",
)
_STEPS = 50  # of Integrated Gradients
_BATCH = 32  # sequences in a compiled call

Method = Callable[[jax.Array, jax.Array], jax.Array]
"""A sequence (n, D) and its class -> values (n,)."""


def all_values(
    subject: Subject, elements: Elements, seed: int, methods: tuple[str, ...] = METHODS
) -> dict[str, np.ndarray]:
    """Attributions of the true class by several methods, (V', n) float64 each.

    Integrated Gradients explain the class probability, with the mean feature of the training
    sequences as baseline, as in the paper. The other gradient methods explain the logit, since
    gradients of a probability vanish where the model is confident. These choices rank elements
    best in the discard curves of figure 3. Gradients are averaged over the features of an element.
    """
    return {name: values(name, subject, elements, seed) for name in methods}


def values(name: str, subject: Subject, elements: Elements, seed: int) -> np.ndarray:
    """Attributions of the true class by one method, (V', n) float64."""
    v, n = elements.index.shape
    if name == "ESV":
        return true_class_esv(subject.game, subject.trn.prior, elements)
    if name in ("centre-out", "edges-in"):
        order = ej.baselines.centre_out if name == "centre-out" else ej.baselines.edges_in
        return np.tile(np.asarray(order(n), float), (v, 1))
    if name == "random":
        return np.random.default_rng(seed).random((v, n))
    method = _method(name, subject)
    run = jax.jit(lambda xs, labels: jax.lax.map(lambda pair: method(*pair), (xs, labels)))
    # Blocks of one shape; the last one is padded.
    rows = np.resize(np.arange(v), -(-v // _BATCH) * _BATCH).reshape(-1, _BATCH)
    found = [np.asarray(run(elements.xs[r], jnp.asarray(elements.labels[r]))) for r in rows]
    return np.concatenate(found)[:v].astype(float)


def _method(name: str, subject: Subject) -> Method:
    game, prior = subject.game, jnp.asarray(subject.trn.prior, jnp.float32)
    gradients, per_element = ej.gradients, ej.gradients.per_element
    probability = gradients.score_function(game, "softmax")
    logit = gradients.score_function(game, "identity")
    known = {"baseline": jnp.asarray(subject.baseline), "steps": _STEPS}
    methods: dict[str, Method] = {
        "Integrated Gradients": lambda x, c: per_element(
            gradients.integrated_gradients(probability, x, c, **known)
        ),
        "Grad-CAM": lambda x, c: gradients.grad_cam(logit, x, c),
        "gradient x input": lambda x, c: per_element(gradients.gradient_x_input(logit, x, c)),
        "leave-one-out": lambda x, c: ej.baselines.leave_one_out(game, x, prior=prior)[:, c],
        "leave-one-in": lambda x, c: ej.baselines.leave_one_in(game, x, prior=prior)[:, c],
    }
    return methods[name]
