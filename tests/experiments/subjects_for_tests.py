"""Random subjects of the figures of Play Fair."""

import numpy as np

import esv_jax as ej
from experiments.play_fair.subjects import Subject

C, D, H = 4, 5, 6


def random_heads(rng, n_heads, c=C):
    """Heads of scales 1..n_heads."""
    heads = []
    for s in range(1, n_heads + 1):
        shapes = {"w1": (s * D, H), "b1": (H,), "w2": (H, c), "b2": (c,)}
        heads.append({k: rng.normal(size=v).astype(np.float32) for k, v in shapes.items()})
    return ej.models.stack_heads(heads)


def random_subject(lengths, *, n_heads=3, names=tuple("abcd"), seed=1, **more):
    """Random heads, sequences and labels; `more` replaces fields of the subject."""
    rng = np.random.default_rng(seed)
    c = len(names)
    model = ej.models.TrainedModel(random_heads(rng, n_heads, c), np.full(c, 1 / c), names)
    sequences = [rng.normal(size=(n, D)).astype(np.float32) for n in lengths]
    fields = {
        "name": "features",
        "title": "random",
        "trn": model,
        "tsn": None,
        "sequences": sequences,
        "labels": rng.integers(c, size=len(lengths)),
        "uids": [f"s{i}" for i in range(len(lengths))],
        "baseline": np.concatenate(sequences).mean(0),
        "about": {"n_sequences": len(lengths)},
    }
    return Subject(**fields | more)
