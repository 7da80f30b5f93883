"""Attribution methods that the figures compare, for the true class of each sequence."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import esv_jax as ej
from esv_jax.checks import Link
from experiments.play_fair.subjects import Elements, Subject, explain_exactly, of_class

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
_LINKS: dict[str, Link] = {"Integrated Gradients": "softmax"}  # the others: logits
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
        esv, _ = explain_exactly(subject.game, subject.trn.prior, elements)
        return of_class(esv, elements.labels)
    if name == "centre-out":
        return np.tile(np.asarray(ej.baselines.centre_out(n), float), (v, 1))
    if name == "edges-in":
        return np.tile(np.asarray(ej.baselines.edges_in(n), float), (v, 1))
    if name == "random":
        return np.random.default_rng(seed).random((v, n))
    return _batched(_method(name, subject), elements)


def _method(name: str, subject: Subject) -> Method:
    game, prior = subject.game, jnp.asarray(subject.trn.prior, jnp.float32)
    fn = ej.gradients.score_function(game, _LINKS.get(name, "identity"))
    baseline = jnp.asarray(subject.baseline)
    per_element = ej.gradients.per_element

    def attribute(x: jax.Array, c: jax.Array) -> jax.Array:
        if name == "Integrated Gradients":
            return per_element(
                ej.gradients.integrated_gradients(fn, x, c, baseline=baseline, steps=_STEPS)
            )
        if name == "Grad-CAM":
            return ej.gradients.grad_cam(fn, x, c)
        if name == "gradient x input":
            return per_element(ej.gradients.gradient_x_input(fn, x, c))
        method = {
            "leave-one-out": ej.baselines.leave_one_out,
            "leave-one-in": ej.baselines.leave_one_in,
        }[name]
        return method(game, x, prior=prior)[:, c]

    return attribute


def _batched(method: Method, elements: Elements) -> np.ndarray:
    """Values of all sequences, in blocks of one shape; the last block is padded."""
    run = jax.jit(lambda xs, labels: jax.lax.map(lambda pair: method(*pair), (xs, labels)))
    v = len(elements.rows)
    rows = np.resize(np.arange(v), -(-v // _BATCH) * _BATCH).reshape(-1, _BATCH)
    found = [np.asarray(run(elements.xs[r], jnp.asarray(elements.labels[r]))) for r in rows]
    return np.concatenate(found)[:v].astype(float)
