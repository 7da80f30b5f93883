"""What elements add by scale, how many support by length, and how smoothly ESVs change.

Claims of the paper: the marginal contribution of an element falls with the scale at which it joins;
the more frames, the fewer of them support the class; ESVs change smoothly where frames are taken
slightly elsewhere.

Measured on exact ESVs of the multi-scale model (TRN), for the true class. (a) What an element adds
on joining subsequences of s - 1 others, averaged over elements and sequences, and the average of
its absolute value; `n_elements` at segment centres. (b) The share of elements with an ESV > 0 of 1,
2, 3, 4, 6, 8, 12 and 16 elements at segment centres, of every sequence that has as many; the trend
is judged on those that have the most. (c) Pearson correlation over elements, and relative change,
of the values of `n_elements` elements and of the elements one later (and one before), of ESVs,
Integrated Gradients and Grad-CAM; of sequences of at least twice as many elements. Trends are
Spearman correlations of means with scale or length, and last less first, with paired bootstrap.

Expected: falling, falling, and ESVs smoother than the two others. (b) takes 400 sequences and (c)
200, evenly from all; both take all with `--full`, as (a) does in either size.

    python -m experiments.play_fair.fig6
    python -m experiments.play_fair.fig6 --subject japanese-vowels
    python -m experiments.play_fair.fig6 --subject features --features F.hdf --model M.safetensors
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import xarray
from tqdm import tqdm

import esv_jax as ej
from experiments.play_fair.fig6.findings import compare
from experiments.play_fair.fig6.picture import plot_all
from experiments.play_fair.figure import Outcome, Settings, markdown
from experiments.play_fair.methods import all_values
from experiments.play_fair.numbers import (
    at,
    mean_of,
    plain,
    resampled_means,
    with_ends,
    written,
)
from experiments.play_fair.subjects import Subject, explain_true

LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16)
METHODS = ("ESV", "Integrated Gradients", "Grad-CAM")
MOVES = (1, -1)
_SEQUENCES, _MOVED = 400, 200  # of (b) and (c), where not --full
_TOGETHER = 1024  # sequences whose marginals of every class are held at once


def measure(subject: Subject, settings: Settings) -> Outcome:
    marginals = true_marginals(subject, settings.n_elements)
    shares = supporting_shares(subject, None if settings.full else _SEQUENCES)
    rows, jitter = jittered(subject, settings, None if settings.full else _MOVED)
    numbers = {
        "n_elements": settings.n_elements,
        "marginals": of_marginals(marginals, settings),
        "lengths": of_lengths(shares, settings),
        "smoothness": of_jitter(jitter, settings.n_elements / subject.lengths[rows], settings),
    }
    return Outcome(
        numbers,
        _table(numbers),
        compare(numbers),
        {"trends": plot_all(numbers, subject.title)},
        _store(subject, marginals, shares, rows, jitter),
    )


def true_marginals(subject: Subject, n: int) -> np.ndarray:
    """Mean marginal contributions (V', scale, element) for the true class."""
    elements = subject.at_centres(n)
    found = []
    for start in range(0, len(elements.rows), _TOGETHER):
        part = slice(start, start + _TOGETHER)
        batch = ej.explain_batch(
            subject.game,
            elements.xs[part],
            prior=subject.trn.prior,
            estimator=ej.Exact(),
            marginals=True,
        )
        labels = elements.labels[part]
        marginals = np.asarray(jax.device_get(batch.marginals))
        found.append(marginals[np.arange(len(labels)), :, :, labels].astype(float))
    return np.concatenate(found)


def supporting_shares(subject: Subject, most: int | None) -> np.ndarray:
    """Shares of supporting elements (V, lengths); NaN where a sequence is too short or left out.

    `most` sequences are taken evenly from all; None takes every one.
    """
    v = len(subject.sequences)
    taken = _evenly(np.arange(v), most)
    found = np.full((v, len(LENGTHS)), np.nan)
    for k, n in enumerate(tqdm(LENGTHS, desc="lengths", unit="length")):
        rows = taken[subject.lengths[taken] >= n]
        if not len(rows):
            break
        index = np.stack([ej.data.segment_centres(subject.lengths[i], n) for i in rows])
        elements = subject.take(rows, index)
        esv, _ = explain_true(subject.game, subject.trn.prior, elements)
        true = esv[np.arange(len(rows)), :, elements.labels]
        found[rows, k] = ej.metrics.support_statistics(true).supporting
    return found


def jittered(
    subject: Subject, settings: Settings, most: int | None
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Rows (V',) of sequences of 2n elements or more, `most` of them, and how smooth methods are.

    Of each method (V', 2): Pearson correlation and change, means over the moves. A sequence whose
    last centre has no element after it is left out. All moves go through one compiled program.
    """
    n = settings.n_elements
    centres = {
        i: ej.data.segment_centres(subject.lengths[i], n)
        for i in np.flatnonzero(subject.lengths >= 2 * n)
    }
    rows = [i for i, c in centres.items() if c[0] >= 1 and c[-1] + 1 < subject.lengths[i]]
    rows = _evenly(np.array(rows, int), most)
    if not len(rows):
        return rows, {}
    moved = np.concatenate([np.stack([centres[i] for i in rows]) + m for m in (0, *MOVES)])
    elements = subject.take(np.tile(rows, 1 + len(MOVES)), moved)
    found = {}
    for name, values in all_values(subject, elements, settings.seed, METHODS).items():
        original, *others = values.reshape(1 + len(MOVES), len(rows), n)
        pairs = [ej.metrics.smoothness(original, other) for other in others]
        found[name] = np.mean([np.stack(pair, axis=1) for pair in pairs], axis=0).astype(float)
    return rows, found


def of_marginals(marginals: np.ndarray, settings: Settings) -> dict[str, Any]:
    """Means by scale of what elements add, with their sign and without."""
    signed, size = marginals.mean(2), np.abs(marginals).mean(2)
    return {
        name: mean_of(values, settings) | {"trend": trend(values, settings)}
        for name, values in (("signed", signed), ("absolute", size))
    }


def of_lengths(shares: np.ndarray, settings: Settings) -> dict[str, Any]:
    """Means by length of every sequence there is, and of those that reach the greatest length."""
    known = ~np.isnan(shares).all(0)
    shares = shares[:, known]
    longest = shares[~np.isnan(shares[:, -1])]
    return {
        "n": [n for n, there in zip(LENGTHS, known, strict=True) if there],
        "all": mean_of(shares, settings),
        "same": mean_of(longest, settings) | {"trend": trend(longest, settings)},
    }


def of_jitter(
    jitter: dict[str, np.ndarray], shift: np.ndarray, settings: Settings
) -> dict[str, Any] | None:
    """Means over sequences, and ESV less each other method; None where nothing was measured.

    `shift` (V',) is how much of a segment one element is.
    """
    if not jitter:
        return None
    finite = {name: np.where(np.isfinite(v), v, np.nan) for name, v in jitter.items()}
    found: dict[str, Any] = {"methods": {}, "ESV - other": {}}
    for name, values in finite.items():
        found["methods"][name] = _of_both(values, settings)
        if name != "ESV":
            found["ESV - other"][name] = _of_both(finite["ESV"] - values, settings)
    return found | {"n_sequences": len(shift), "median shift": float(np.median(shift))}


def trend(values: np.ndarray, settings: Settings) -> dict[str, Any] | None:
    """How means (V, K) go with K: Spearman's rho and last less first; None of K < 3.

    `steps` are consecutive differences of the means.
    """
    if values.shape[1] < 3:
        return None
    mean, draws = values.mean(0), resampled_means(values, settings)
    steps = mean_of(np.diff(values, axis=1), settings)
    return {
        "spearman": with_ends(spearman(mean), spearman(draws)),
        "last - first": with_ends(mean[-1] - mean[0], draws[:, -1] - draws[:, 0]),
        "steps": plain(steps),
    }


def spearman(values: np.ndarray) -> np.ndarray:
    """Rank correlation of values (..., K) with 0..K - 1; ties share ranks; NaN where constant."""
    below = (values[..., None, :] < values[..., :, None]).sum(-1)
    ties = (values[..., None, :] == values[..., :, None]).sum(-1)
    rank = below + (ties - 1) / 2
    rank = rank - rank.mean(-1, keepdims=True)
    k = np.arange(values.shape[-1]) - (values.shape[-1] - 1) / 2
    norm = np.sqrt((rank**2).sum(-1) * (k**2).sum())
    return np.where(norm > 0, (rank * k).sum(-1) / np.where(norm > 0, norm, 1), np.nan)


def _evenly(rows: np.ndarray, most: int | None) -> np.ndarray:
    """At most so many of the rows, from all of them evenly; None for all."""
    if most is None or len(rows) <= most:
        return rows
    return rows[ej.data.segment_centres(len(rows), most)]


def _of_both(values: np.ndarray, settings: Settings) -> dict[str, Any]:
    found = mean_of(values, settings)
    return {name: at(found, k) for k, name in enumerate(("pearson", "change"))}


def _table(numbers: dict[str, Any]) -> str:
    marginals, lengths, smooth = (numbers[k] for k in ("marginals", "lengths", "smoothness"))
    scales = range(numbers["n_elements"])
    rows = [
        (s + 1, written(at(_means(marginals["signed"]), s), 1, 4))
        + (written(at(_means(marginals["absolute"]), s), 1, 4),)
        for s in scales
    ]
    parts = [markdown(("scale", "marginal contribution", "absolute value"), rows)]
    count = lengths["same"]["n_sequences"][0]
    rows = [
        (n, lengths["all"]["n_sequences"][k], written(at(lengths["all"], k)))
        + (written(at(_means(lengths["same"]), k)),)
        for k, n in enumerate(lengths["n"])
    ]
    same = f"the {count} that have {lengths['n'][-1]} (%)"
    parts.append(markdown(("elements", "sequences", "supporting (%)", same), rows))
    if smooth is not None:
        rows = [
            (name, written(found["pearson"], 1, 3), written(found["change"], 1, 3))
            for name, found in smooth["methods"].items()
        ]
        head = "moved by one", "Pearson", "change"
        parts.append(markdown(head, rows))
        parts.append(f"{smooth['n_sequences']} sequences moved.")
    return "\n\n".join(parts)


def _means(found: dict[str, Any]) -> dict[str, Any]:
    return {name: values for name, values in found.items() if name != "trend"}


def _store(
    subject: Subject,
    marginals: np.ndarray,
    shares: np.ndarray,
    rows: np.ndarray,
    jitter: dict[str, np.ndarray],
) -> xarray.Dataset:
    n = marginals.shape[1]
    wide = np.full((len(subject.sequences), n, n), np.nan)
    wide[subject.lengths >= n] = marginals
    fields = {
        "marginals": (("video", "scale", "element"), wide),
        "supporting": (("video", "length"), shares),
    }
    if jitter:
        smooth = np.full((len(METHODS), len(subject.sequences), 2), np.nan)
        smooth[:, rows] = np.stack([jitter[name] for name in METHODS])
        fields["smoothness"] = (("attribution", "video", "measure"), smooth)
    coords = {"video": subject.uids, "length": list(LENGTHS), "scale": np.arange(1, n + 1)}
    if jitter:
        coords |= {"attribution": list(METHODS), "measure": ["pearson", "change"]}
    return xarray.Dataset(fields, coords=coords)
