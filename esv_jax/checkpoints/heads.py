"""Heads of play-fair from their state dicts, in the layout of `models.stack_heads`.

    TRN of scale s   model.<i>.weight, model.<i>.bias: linear layers with a ReLU between them, in
                     an `nn.Sequential` after a dropout, and before that a ReLU on the features
                     or none. Weights are (out, in); the first is (H, s*D).
    MTRN             single_scale_models.<s - 1>.model.<i>..., the TRN of every scale
    TSN              classifier.weight (C, D), classifier.bias (C,)

A prefix "module." of all names, written by parallel training, is removed.
Source: `src/models/components/mlp.py`, `multiscale.py` and `tsn.py` of play-fair.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from esv_jax.checkpoints.unpickle import CheckpointError, expect, short
from esv_jax.checks import expect_finite, message
from esv_jax.models.heads import HeadStack, TsnHead, head_logits, tsn_logits

_LAYER = re.compile(r"model\.(\d{1,4})\.(weight|bias)")
_SCALE = re.compile(r"single_scale_models\.(\d{1,4})\.(.+)")
_PARALLEL = "module."
_MAX_NAMES_SHOWN = 6
_N_EXAMPLES = 8

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Layers:
    """Linear layers as stored in a file.

    Attributes:
      name: of the file, for messages; with the scale if the file has several.
      layers: weight (out, in) and bias (out,) of each, float32.
      input_relu: whether the features pass a ReLU first.
    """

    name: str
    layers: tuple[tuple[np.ndarray, np.ndarray], ...]
    input_relu: bool

    @property
    def width(self) -> int:
        """Features in: s * D."""
        return int(self.layers[0][0].shape[1])

    @property
    def n_classes(self) -> int:
        """Classes C."""
        return int(self.layers[-1][0].shape[0])

    def head(self) -> dict[str, np.ndarray | list[dict[str, np.ndarray]]]:
        """The head for `stack_heads`: "w1" (s*D, H), "b1", "hidden", "w2" (H, C), "b2"."""
        (w1, b1), *hidden, (w2, b2) = self.layers
        hidden_layers = [{"w": w.T, "b": b} for w, b in hidden]
        return {"w1": w1.T, "b1": b1, "hidden": hidden_layers, "w2": w2.T, "b2": b2}


def _without_prefix(arrays: Arrays) -> Arrays:
    """The entries without "module.", if every name has it."""
    if all(name.startswith(_PARALLEL) for name in arrays):
        return {name.removeprefix(_PARALLEL): array for name, array in arrays.items()}
    return arrays


def split_scales(arrays: Arrays, name: str) -> dict[int, dict[str, np.ndarray]]:
    """The state dicts of the TRNs in one MTRN, by scale."""
    scales: dict[int, dict[str, np.ndarray]] = {}
    for key, array in _without_prefix(arrays).items():
        match = _SCALE.fullmatch(key)
        if match is None:
            expected = "entries single_scale_models.<k>...."
            raise CheckpointError(message(name, expected, _listed(arrays)))
        scales.setdefault(int(match[1]) + 1, {})[match[2]] = array
    return scales


def trn_layers(arrays: Arrays, name: str) -> Layers:
    """The layers of a TRN of one scale.

    Args:
      arrays: its state dict.
      name: of the file.
    Raises:
      CheckpointError: (a ValueError) other entries, batch normalisation among them; shapes of
        consecutive layers that do not fit; values that are not finite.
    """
    arrays = _without_prefix(arrays)
    entries: dict[int, dict[str, np.ndarray]] = {}
    has_norm = any(key.endswith("running_mean") for key in arrays)
    expected = "linear layers model.<i>.weight and model.<i>.bias"
    for key, array in arrays.items():
        match = _LAYER.fullmatch(key)
        if match is None or has_norm:
            way_out = "Heads with batch normalisation are not supported." if has_norm else ""
            raise CheckpointError(message(name, expected, _listed(arrays), way_out))
        entries.setdefault(int(match[1]), {})[match[2]] = array
    order = sorted(entries)
    # Dropout is at index 0 (1 after a ReLU); then linear layers alternate with ReLUs.
    first = order[0] if order else 0
    fits = first in (1, 2) and len(order) >= 2 and all(len(entries[i]) == 2 for i in order)
    fits = fits and order == list(range(first, order[-1] + 1, 2))
    expected += " at i = 1, 3, ..., or 2, 4, ... after a ReLU"
    expect(fits, name, expected, _listed(arrays))
    layers = tuple(_linear(entries[i], f"{name}, model.{i}") for i in order)
    for k, ((left, _), (right, _)) in enumerate(itertools.pairwise(layers)):
        expected = f"{len(left)} columns in layer {k + 2}, as layer {k + 1} has rows"
        expect(right.shape[1] == len(left), name, expected, right.shape[1])
    return Layers(name, layers, input_relu=first == 2)


def tsn_layers(arrays: Arrays, name: str) -> Layers:
    """The one layer of a TSN, whose features pass a ReLU first (as in its published settings).

    Raises:
      CheckpointError: (a ValueError) other entries, shapes or values.
    """
    arrays = _without_prefix(arrays)
    expected = "entries classifier.weight and classifier.bias"
    fits = set(arrays) == {"classifier.weight", "classifier.bias"}
    expect(fits, name, expected, _listed(arrays))
    entries = {key.removeprefix("classifier."): array for key, array in arrays.items()}
    return Layers(name, (_linear(entries, f"{name}, classifier"),), input_relu=True)


def check_scales(heads: Mapping[int, Layers]) -> None:
    """Refuse heads whose sizes contradict those of scale 1.

    Raises:
      CheckpointError: (a ValueError) naming the file of the head that does not fit.
    """
    first, way_out = heads[1], "Is it the checkpoint of this scale?"
    d, h = first.width, len(first.layers[0][0])
    for s, head in sorted(heads.items()):
        shape = head.layers[0][0].shape
        expected = f"a first layer (H, s*D) = ({h}, {s * d}) at scale {s}, by D = {d} of scale 1"
        expect(shape == (h, s * d), head.name, expected, shape, way_out)
        c, n = first.n_classes, len(first.layers)
        expect(head.n_classes == c, head.name, f"{c} classes", head.n_classes)
        expected, got = f"{n} layers, as at scale 1", len(head.layers)
        expect(got == n, head.name, expected, got)
        fits = head.input_relu == first.input_relu
        expect(fits, head.name, "a ReLU on the features at every scale or none", "another")


def logit_errors(heads: HeadStack | TsnHead, layers: Mapping[int, Layers]) -> dict[str, float]:
    """The largest relative difference between a model's logits and those of its source layers.

    Args:
      heads: the model.
      layers: by scale, as in the files; of a TSN only scale 1.
    Returns:
      For each head, the largest absolute difference over 8 random sequences, divided by the
      largest absolute logit.
    """
    errors: dict[str, float] = {}
    rng = np.random.default_rng(0)
    for s, source in sorted(layers.items()):
        x = rng.normal(size=(_N_EXAMPLES, s, source.width // s)).astype(np.float32)
        h = x.reshape(_N_EXAMPLES, -1).astype(np.float64)
        h = np.maximum(h, 0) if source.input_relu else h
        for k, (w, b) in enumerate(source.layers):
            h = (np.maximum(h, 0) if k else h) @ w.T.astype(np.float64) + b
        if isinstance(heads, TsnHead):
            found = [tsn_logits(heads, row, jnp.ones(s, jnp.bool_)) for row in jnp.asarray(x)]
        else:
            found = [head_logits(heads, s, row) for row in jnp.asarray(x)]
        error = np.abs(np.stack([np.asarray(row) for row in found]) - h).max()
        largest = float(np.abs(h).max())
        errors[f"scale {s}" if len(layers) > 1 else "head"] = float(error) / (largest or 1.0)
    return errors


def _linear(entries: Arrays, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias of one layer in single precision, with matching shapes."""
    w, b = entries["weight"], entries["bias"]
    is_float = w.dtype.kind == b.dtype.kind == "f"
    expect(is_float, name, "floating-point numbers", f"{w.dtype} and {b.dtype}")
    fits = w.ndim == 2 and b.shape == w.shape[:1] and w.size > 0
    expect(fits, name, "a weight (out, in) and a bias (out,)", f"{w.shape} and {b.shape}")
    expect_finite(f"{name}.weight", w)
    expect_finite(f"{name}.bias", b)
    return w.astype(np.float32), b.astype(np.float32)


def _listed(arrays: Arrays) -> str:
    names = ", ".join(short(name) for name in list(arrays)[:_MAX_NAMES_SHOWN])
    return (names or "none") + (", ..." if len(arrays) > _MAX_NAMES_SHOWN else "")
