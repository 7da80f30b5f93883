"""Figure 3: what becomes of a prediction as elements are dropped in the order of each method.

Claims: dropping the frames of highest ESV first brings the true class down faster than the orders
of Integrated Gradients and Grad-CAM (a); dropping those of lowest ESV first improves accuracy, by
20 % with 4 of 8 frames left against 8 % and 7 % (b); orders by position alone do worse (c).

How: attributions of the true class by every method, for each sequence that has `n_elements`. They
are dropped one by one, the highest or the lowest value first, and the model itself scores what is
left: accuracy, and mean probability of the true class. Intervals are 95 % bootstrap over sequences;
a lead of ESV is the paired difference on the same sequences, positive where ESV is ahead: below in
descending order, above in ascending. Areas are means over the points of a curve.

Rules. ESV is *clear* of a method where their intervals do not overlap, *ahead in pairs* where only
the interval of the lead lies above 0, *behind* where it lies below, else *level*. Reproduced where
it is clear of all methods named, contradicted where it is behind one, else weaker. A gain in
accuracy is reproduced where its interval lies above 0, contradicted where it lies below. Fewer than
5 sequences are not judged.

Expected: a clear lead early in descending order and none at its end, where nothing is left to take
away; little to gain in ascending order where the model is nearly always right. The first drop of
leave-one-out is the best there is for the class score, so no method can lead it there.

Settings that matter: n_elements (8), at which half are dropped; at most 1,000 sequences, evenly
picked; full takes all.

    python -m experiments.play_fair.fig3
    python -m experiments.play_fair.fig3 --subject japanese-vowels
    python -m experiments.play_fair.fig3 --subject features --features F.hdf --model M.safetensors
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray

import esv_jax as ej
from experiments.play_fair.fig3 import findings, picture
from experiments.play_fair.fig3.comparison import (
    MEASURE_NAMES,
    MEASURES,
    ORDERS,
    Curves,
    at,
    curves_of,
    gain_of,
    leads_of,
    numbers_of,
    written,
)
from experiments.play_fair.figure import Outcome, Settings, markdown
from experiments.play_fair.methods import METHODS, all_values
from experiments.play_fair.subjects import Elements, Subject

_AT_MOST = 1000  # sequences, but for the full size


def measure(subject: Subject, settings: Settings) -> Outcome:
    n, longest = settings.n_elements, int(subject.lengths.max())
    if n < 2 or longest < n:
        why = f"sequences have at most {longest} elements, {max(n, 2)} are needed"
        why = why if n >= 2 else "nothing can be dropped of 1 element"
        return Outcome({"n_elements": n}, why, findings.not_measured(why), {})
    elements = _few(subject, subject.at_centres(n), full=settings.full)
    values = all_values(subject, elements, settings.seed)
    curves = curves_of(subject.game, subject.trn.prior, elements, values)
    numbers: dict[str, Any] = {
        "n_sequences": len(elements.rows),
        "n_elements": n,
        "half": n // 2,
        "curves": {
            method: {order: numbers_of(curves[method][order], settings) for order in ORDERS}
            for method in METHODS
        },
        "gain": {method: gain_of(curves[method]["ascending"], settings) for method in METHODS},
        "lead": leads_of(curves, settings),
    }
    numbers["all_elements"] = {
        name: at(numbers["curves"]["ESV"]["ascending"][name], 0) for name in MEASURES
    }
    title = f"{subject.title}, {len(elements.rows):,} sequences of {n} elements"
    return Outcome(
        numbers,
        _table(numbers),
        findings.compare(numbers),
        {
            "discard": picture.plot_curves(numbers, title),
            "lead": picture.plot_leads(numbers, title),
        },
        _store(subject, elements, values, curves),
    )


def _few(subject: Subject, elements: Elements, *, full: bool) -> Elements:
    """All of them, or as many as the reduced size takes."""
    v = len(elements.rows)
    if full or v <= _AT_MOST:
        return elements
    keep = ej.data.segment_centres(v, _AT_MOST)
    return subject.take(elements.rows[keep], elements.index[keep])


def _table(numbers: dict[str, Any]) -> str:
    half, n, v = (numbers[name] for name in ("half", "n_elements", "n_sequences"))
    everything = ", ".join(
        f"{MEASURE_NAMES[name]} {written(numbers['all_elements'][name])} %" for name in MEASURES
    )
    parts = [f"{v:,} sequences of {n} elements; with all of them {everything}."]
    for order in ORDERS:
        first = "highest" if order == "descending" else "lowest"
        head = [f"{first} value first (%)", f"accuracy, {half} dropped", f"class score, {half}"]
        head += ["accuracy, area", "class score, area"]
        head += ["accuracy gained", "class score gained"] if order == "ascending" else []
        rows = []
        for method in METHODS:
            found = numbers["curves"][method][order]
            cells = [at(found[name], place) for place in (half, "area") for name in MEASURES]
            if order == "ascending":
                cells += [numbers["gain"][method][name] for name in MEASURES]
            rows.append((method, *map(written, cells)))
        parts.append(markdown(head, rows))
    return "\n\n".join(parts)


def _store(
    subject: Subject, elements: Elements, values: dict[str, np.ndarray], curves: Curves
) -> xarray.Dataset:
    def stacked(field: str) -> np.ndarray:
        return np.stack(
            [[getattr(curves[method][order], field) for order in ORDERS] for method in METHODS]
        )

    # Not "method": `sel` of xarray has an argument of that name.
    points = ("attribution", "order", "video", "dropped")
    return xarray.Dataset(
        {
            "right": (points, stacked("right").astype(np.int8)),
            "class_score": (points, stacked("scores")),
            "value": (("attribution", "video", "element"), np.stack([values[m] for m in METHODS])),
            "label": (("video",), elements.labels),
            "index": (("video", "element"), elements.index),
        },
        coords={
            "attribution": list(METHODS),
            "order": list(ORDERS),
            "video": [subject.uids[i] for i in elements.rows],
        },
    )
