"""Heads of play-fair from their state dicts, in the layout of `models.stack_heads`.

    TRN of scale s   model.<i>.weight, model.<i>.bias: linear layers with a ReLU between them, in
                     an `nn.Sequential` after a dropout, and before that a ReLU on the features
                     or none. Weights are (out, in); the first is (H, s*D).
    MTRN             single_scale_models.<s - 1>.model.<i>..., the TRN of every scale
    TSN              classifier.weight (C, D), classifier.bias (C,)

A prefix "module." before all names, as parallel training leaves it, is taken away.
Source: `src/models/components/mlp.py`, `multiscale.py` and `tsn.py` of play-fair.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from esv_jax.checkpoints.inert import CheckpointError, expect
from esv_jax.checks import expect_finite, message

_LAYER = re.compile(r"model\.(\d{1,4})\.(weight|bias)")
_OF_SCALE = re.compile(r"single_scale_models\.(\d{1,4})\.(.+)")
_PARALLEL = "module."
_SHOWN = 6  # names in a message

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Layers:
    """Linear layers as a file holds them.

    Attributes:
      name: of the file, for messages; with the scale where it holds several.
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

    def head(self) -> dict[str, Any]:
        """The head that `stack_heads` takes: "w1" (s*D, H), "b1", "hidden", "w2" (H, C), "b2"."""
        (w1, b1), *hidden, (w2, b2) = self.layers
        return {
            "w1": w1.T,
            "b1": b1,
            "hidden": [{"w": w.T, "b": b} for w, b in hidden],
            "w2": w2.T,
            "b2": b2,
        }


def without_prefix(arrays: Arrays) -> dict[str, np.ndarray]:
    """The entries with "module." taken from every name, where every name has it."""
    if arrays and all(name.startswith(_PARALLEL) for name in arrays):
        return {name.removeprefix(_PARALLEL): array for name, array in arrays.items()}
    return dict(arrays)


def by_scale(arrays: Arrays, name: str) -> dict[int, dict[str, np.ndarray]]:
    """The state dicts of the TRNs in one MTRN, by scale."""
    scales: dict[int, dict[str, np.ndarray]] = {}
    for key, array in without_prefix(arrays).items():
        match = _OF_SCALE.fullmatch(key)
        expect(match is not None, name, "entries single_scale_models.<k>....", _listed(arrays))
        if match is not None:
            scales.setdefault(int(match[1]) + 1, {})[match[2]] = array
    return scales


def trn_layers(arrays: Arrays, name: str) -> Layers:
    """The layers of a TRN of one scale.

    Args:
      arrays: its state dict. name: of the file.
    Raises:
      CheckpointError: (a ValueError) other entries, batch normalisation among them; layers
        that do not follow each other; values that are not finite.
    """
    arrays = without_prefix(arrays)
    places: dict[int, dict[str, np.ndarray]] = {}
    way_out = "Heads with batch normalisation are not read." if _normalised(arrays) else ""
    expected = "linear layers model.<i>.weight and model.<i>.bias"
    for key, array in arrays.items():
        match = _LAYER.fullmatch(key)
        if match is None or way_out:
            raise CheckpointError(message(name, expected, _listed(arrays), way_out))
        places.setdefault(int(match[1]), {})[match[2]] = array
    order = sorted(places)
    complete = all(len(places[i]) == 2 for i in order)
    # dropout at 0 (1 after a ReLU), then linear layers and ReLUs in turn
    first = order[0] if order else 0
    in_turn = first in (1, 2) and len(order) >= 2 and order == list(range(first, order[-1] + 1, 2))
    expected += " at i = 1, 3, ..., or 2, 4, ... after a ReLU"
    expect(complete and in_turn, name, expected, _listed(arrays))
    layers = tuple(_linear(places[i], f"{name}, model.{i}") for i in order)
    for k, (left, right) in enumerate(itertools.pairwise(layers)):
        expected = f"{left[0].shape[0]} columns in layer {k + 2}, as layer {k + 1} has rows"
        expect(right[0].shape[1] == left[0].shape[0], name, expected, right[0].shape[1])
    return Layers(name, layers, input_relu=first == 2)


def tsn_layers(arrays: Arrays, name: str) -> Layers:
    """The one layer of a TSN, whose features pass a ReLU first (as in its published settings).

    Raises:
      CheckpointError: (a ValueError) other entries, shapes or values.
    """
    arrays = without_prefix(arrays)
    expected = "entries classifier.weight and classifier.bias"
    fits = set(arrays) == {"classifier.weight", "classifier.bias"}
    expect(fits, name, expected, _listed(arrays))
    entries = {key.removeprefix("classifier."): array for key, array in arrays.items()}
    return Layers(name, (_linear(entries, f"{name}, classifier"),), input_relu=True)


def expect_scales_fit(heads: Mapping[int, Layers]) -> None:
    """Refuse heads whose sizes are not those of their scale, given those of scale 1.

    Raises:
      CheckpointError: (a ValueError) naming the file of the head that does not fit.
    """
    first = heads[1]
    d, h = first.width, first.layers[0][0].shape[0]
    way_out = "Is it the checkpoint of this scale?"
    for s, head in sorted(heads.items()):
        shape = head.layers[0][0].shape
        expected = f"a first layer (H, s*D) = ({h}, {s * d}) at scale {s}, by D = {d} of scale 1"
        expect(shape == (h, s * d), head.name, expected, shape, way_out)
        got = f"{head.n_classes}"
        expect(head.n_classes == first.n_classes, head.name, f"{first.n_classes} classes", got)
        expected = f"{len(first.layers)} layers, as at scale 1"
        expect(len(head.layers) == len(first.layers), head.name, expected, len(head.layers))
        same = head.input_relu == first.input_relu
        expect(same, head.name, "a ReLU on the features at every scale or none", "another")


def _linear(entries: Arrays, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias of one layer in single precision, asked whether they fit each other."""
    w, b = entries["weight"], entries["bias"]
    floats = all(array.dtype.kind == "f" for array in (w, b))
    expect(floats, name, "floating-point numbers", f"{w.dtype} and {b.dtype}")
    fits = w.ndim == 2 and b.shape == w.shape[:1] and w.size > 0
    expected = "a weight (out, in) and a bias (out,)"
    expect(fits, name, expected, f"{w.shape} and {b.shape}")
    expect_finite(f"{name}.weight", w)
    expect_finite(f"{name}.bias", b)
    return w.astype(np.float32), b.astype(np.float32)


def _normalised(arrays: Arrays) -> bool:
    return any(key.endswith("running_mean") for key in arrays)


def _listed(arrays: Arrays) -> str:
    names = ", ".join(name[:40] for name in list(arrays)[:_SHOWN])
    return (names or "none") + (", ..." if len(arrays) > _SHOWN else "")
