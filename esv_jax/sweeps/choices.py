"""Which classes' values a sweep keeps: all, or some of each video's own."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from esv_jax.checks import expect, message


def choice_names(classes: str | Sequence[str], n_classes: int) -> tuple[str, ...] | None:
    """Names of the classes to keep per video; None for all classes.

    Args:
      classes: "all", or some of "gt" (true), "pred" (predicted) and "topK" (the K of highest
        score), separated by commas or in a sequence. "top2" stands for top1 and top2.
      n_classes: C.
    Raises:
      ValueError: another name, one twice, nothing, or a K beyond C.
    """
    asked = [name.strip() for name in (classes.split(",") if isinstance(classes, str) else classes)]
    if asked == ["all"]:
        return None
    names: list[str] = []
    for name in asked:
        top = re.fullmatch(r"top([1-9]\d*)", name)
        if name not in ("gt", "pred") and top is None:
            expected = "all, or some of gt, pred and top1, top2, ..."
            raise ValueError(message("classes", expected, repr(",".join(asked))))
        k = int(top[1]) if top else 0
        expect(k <= n_classes, "classes", f"at most top{n_classes}, as there are classes", name)
        names += [f"top{rank}" for rank in range(1, k + 1)] if top else [name]
    got = ",".join(asked)
    expect(bool(names) and len(set(names)) == len(names), "classes", "each class once", repr(got))
    return tuple(names)


def chosen_classes(names: Sequence[str], scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The class behind each name, (V, K); -1 for the true class where it is not known.

    Args:
      names: see `choice_names`. scores: (V, C). labels: (V,), -1 where unknown.
    """
    ranked = np.argsort(-scores, axis=1, kind="stable")  # equal scores: the first class, as argmax
    columns = {"gt": labels, "pred": ranked[:, 0]}
    return np.stack(
        [columns[name] if name in columns else ranked[:, int(name[3:]) - 1] for name in names], 1
    ).astype(np.int32)


def of_chosen(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Values (V, ..., C) of the chosen classes (V, K): (V, ..., K), NaN where there is none."""
    middle = values.ndim - 2
    index = np.maximum(chosen, 0).reshape(len(chosen), *[1] * middle, -1)
    picked = np.take_along_axis(values, index, axis=-1)
    missing = (chosen < 0).reshape(index.shape)
    return np.where(missing, np.float32(np.nan), picked)
