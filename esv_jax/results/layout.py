"""The variables of a dataset of explanations: their dimensions and what they mean."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from esv_jax.checks import expect, message
from esv_jax.hdf5 import naming

if TYPE_CHECKING:
    import xarray

ELEMENT, SCORE, VIDEO = ("video", "element", "class"), ("video", "class"), ("video",)

LAYOUT = {  # name: dimensions, meaning
    "esv": (ELEMENT, "Element Shapley Value: share of score - prior"),
    "std_error": (ELEMENT, "standard error of the ESV"),
    "marginals": (("video", "scale", "element", "class"), "mean marginal contribution at a scale"),
    "scores": (SCORE, "score of the whole sequence"),
    "prior": (SCORE, "score of the empty sequence"),
    "length": (VIDEO, "number of elements"),
    "label": (VIDEO, "true class, -1 where unknown"),
    "prediction": (VIDEO, "class of the highest score"),
    "exact": (VIDEO, "whether every subsequence was evaluated"),
    "n_evaluations": (VIDEO, "model evaluations of distinct subsequences"),
    "efficiency_gap": (VIDEO, "largest |sum of ESVs - (score - prior)| of all classes"),
    "element_index": (("video", "element"), "index in the original sequence, -1 beyond its length"),
    "chosen": (("video", "choice"), "class that a choice stands for, -1 where there is none"),
    "failed": (VIDEO, "whether it could not be explained"),
}

OTHER_METHOD = "other_method"
"""Attribute, its name, of a variable with another method's values, dimensions as of `esv`."""


def other_methods(dataset: xarray.Dataset) -> tuple[str, ...]:
    """Names of the other methods whose values a dataset holds."""
    kept = dataset.data_vars.items()
    return tuple(str(name) for name, variable in kept if OTHER_METHOD in variable.attrs)


PER_CLASS = ("esv", "std_error", "marginals")
"""Variables that a sweep may store for some chosen classes only: `choice` in place of `class`."""


def dimensions(name: str, chosen: bool = False) -> tuple[str, ...]:
    """Dimensions of a variable; of chosen classes where they are not all stored."""
    dims = LAYOUT[name][0]
    if chosen and name in PER_CLASS:
        return (*dims[:-1], "choice")
    return dims


_ALWAYS = ("esv", "scores", "prior", "length", "label", "prediction", "exact", "efficiency_gap")
_JSON = {"settings": dict, "failures": dict, "warnings": list}  # attributes


def expect_layout(dataset: xarray.Dataset, where: str) -> None:
    """Refuse a file whose variables, dimensions or attributes readers cannot rely on.

    Args:
      where: how messages call the file.
    Raises:
      ValueError: a variable or attribute that is missing or of another kind, a length or label out
        of range, repeated names of videos.
    Cost: reads names, lengths and labels.
    """
    chosen = "choice" in dataset.sizes
    for name in ("video", "class", *_ALWAYS):
        expect(name in dataset.variables, where, f"a variable {name!r}", "none")
    for name in LAYOUT:
        if name in dataset.variables:
            variable, full = dataset.variables[name], dimensions(name, chosen)
            short = full[1:] if name == "prior" else full  # the same for all videos
            fits = variable.dims in (full, short) and variable.dtype.kind in "iufb"
            got = f"{variable.dtype} {variable.dims}"
            expect(fits, f"{where}, {name}", f"numbers {full}", got)
    for name, kind in _JSON.items():
        text = dataset.attrs.get(name, "{}" if kind is dict else "[]")
        expect(_holds(text, kind), f"{where}, attribute {name}", f"JSON, a {kind.__name__}", "none")
    expect("settings" in dataset.attrs, where, "an attribute 'settings'", "none")
    n_classes = dataset.sizes["class"]
    most = {"length": dataset.sizes["element"], "label": n_classes - 1}
    for name, top in most.items():
        with naming(f"{where}, {name}", "readable values"):
            values = dataset[name].values
        low = 0 if name == "length" else -1
        wrong = values[(values < low) | (values > top)]
        expect(not wrong.size, f"{where}, {name}", f"numbers in {low}..{top}", str(wrong[:1]))
    with naming(f"{where}, names of videos", "distinct names"):
        distinct = bool(dataset.indexes["video"].is_unique)
    expect(distinct, f"{where}, names of videos", "distinct names", "one twice")


@contextmanager
def reading(dataset: xarray.Dataset) -> Iterator[None]:
    """Turn errors of reading values into a ValueError of one line that names the file."""
    try:
        yield
    except (OSError, RuntimeError, IndexError, OverflowError) as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise  # of another file, which it names
        raise unreadable(dataset, "damage") from error


def unreadable(dataset: xarray.Dataset, got: str) -> ValueError:
    """The error for values that cannot be read, naming the file."""
    where = str(dataset.encoding.get("source", "results"))
    way_out = "Of a sweep, esv-jax results --verify names the shard."
    return ValueError(message(where, "readable values", got, way_out))


def _holds(text: object, kind: type) -> bool:
    """Return whether a text is JSON of this kind."""
    try:
        return isinstance(text, str) and isinstance(json.loads(text), kind)
    except ValueError:
        return False
