"""Training, explanation and discard curves on labelled `.ts` sequences.

Shared by `japanese_vowels` and `basic_motions`: settings, the run, its tables and stored files.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

import esv_jax as ej
from esv_jax.checks import expect, expect_int
from esv_jax.models.trained import model_digest
from experiments import series_measures as measures
from experiments import series_pictures as pictures
from experiments.harness import (
    Finding,
    above,
    as_json,
    as_rows,
    command,
    finding,
    findings_table,
    markdown,
    require,
    sha256,
    surroundings,
    write_json,
)
from experiments.statistics import at, written

_SIZES = (1, 2, 3, 4, 6, 8, 12, 16)
_EFFICIENCY = 1e-5  # largest gap of exact ESVs that rounding explains


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A data set and its claims.

    Attributes:
      name: name of the module and of the results.
      problem: files are `<problem>_TRAIN.ts` and `<problem>_TEST.ts`.
      expected_accuracy: lower bound on the accuracy of f^ms from all elements.
      about: docstring of the module.
    """

    name: str
    problem: str
    expected_accuracy: float
    about: str


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of one run; with the data they determine its numbers on one backend."""

    out: Path
    """Folder for the results; files of an earlier run are replaced."""
    data: Path = Path("../shared/data/series")
    """Folder of the `.ts` files; the default is relative to the root of a checkout."""
    seed: int = 0
    """Seed of training, sampling, random orders and bootstrap."""
    n_elements: int = 16
    """Elements of a sequence to explain exactly, at segment centres; time doubles with each."""
    n_max: int = 8
    """Largest scale with its own head."""
    max_epochs: int = 200
    """Passes over the training sequences."""
    max_subsequences: int = 256
    """Subsequences drawn per scale for sampled ESVs."""
    iterations: int = 4
    """Independent passes for sampled ESVs; two or more give a standard error."""
    n_random: int = 4
    """Random orders of dropping elements per sequence."""
    n_resamples: int = 2000
    """Bootstrap resamples of the sequences."""
    limit: int | None = None
    """Number of test sequences, evenly spaced in the file; default all."""

    def __post_init__(self) -> None:
        """Checks the counts; the library checks the rest."""
        for name in ("n_elements", "n_random", "n_resamples", "limit"):
            if getattr(self, name) is not None:
                expect_int(name, getattr(self, name), minimum=1)


def main(experiment: Experiment, args: Sequence[str] | None = None) -> int:
    """Runs from the command line: 0 when done, 2 where the data is missing."""
    return command(
        Settings,
        lambda settings: table(run(experiment, settings)),
        module=experiment.name,
        about=experiment.about,
        args=args,
        default=Settings(out=Path("results") / experiment.name),
    )


def run(experiment: Experiment, settings: Settings) -> dict[str, Any]:
    """Trains, measures and writes all files to `settings.out`.

    Returns:
      The content of `summary.json`.
    """
    paths = [settings.data / f"{experiment.problem}_{part}.ts" for part in ("TRAIN", "TEST")]
    require(settings.data, [path.name for path in paths], "--data")
    settings.out.mkdir(parents=True, exist_ok=True)
    seconds: dict[str, float] = {}
    evaluate_key, sample_key = jax.random.split(jax.random.key(settings.seed))
    train, test = map(ej.data.read_ts, paths)
    rows = _selected(test, settings)

    with _timed(seconds, "train"):
        config = ej.models.TrainConfig(
            n_max=settings.n_max, max_epochs=settings.max_epochs, seed=settings.seed
        )
        model = ej.models.train_heads(
            train.sequences,
            train.labels,
            len(train.class_names),
            config,
            class_names=train.class_names,
            progress=True,
        )
    ej.models.save_model(settings.out / "model.safetensors", model)
    subject = measures.Trained(
        model=model,
        sequences=[test.sequences[i] for i in rows],
        labels=test.labels[rows],
        uids=[test.uids[i] for i in rows],
    )
    elements = measures.elements_of(subject.sequences, settings.n_elements)
    everything = [np.arange(len(x)) for x in subject.sequences]
    sampler = ej.Constructive(settings.max_subsequences, settings.iterations)

    with _timed(seconds, "exact ESVs"):
        exact = measures.explain_all(subject, elements, ej.Exact(), desc="exact ESVs")
    with _timed(seconds, "accuracy by elements"):
        sizes = [n for n in _SIZES if n <= settings.n_elements]
        accuracy = measures.accuracy_by_elements(
            subject, exact, sizes, settings.n_elements, key=evaluate_key
        )
    with _timed(seconds, "sampled ESVs, same elements"):
        desc = "sampled ESVs of the same elements"
        same = measures.explain_all(subject, elements, sampler, key=sample_key, desc=desc)
    with _timed(seconds, "sampled ESVs, all elements"):
        desc = "sampled ESVs of all elements"
        sampled = measures.explain_all(subject, everything, sampler, key=sample_key, desc=desc)
    with _timed(seconds, "discarding"):
        discarded = _discard(subject, elements, exact, settings)

    gap = max(float(abs(record.efficiency_gap()).max()) for record in exact)
    summary = {
        "experiment": experiment.name,
        "findings": as_rows(findings(experiment.expected_accuracy, accuracy, discarded, gap)),
        "seed": settings.seed,
        "settings": as_json(settings),
        "training": {
            **dataclasses.asdict(config),
            "epochs": len(model.history.train_loss),
            "best_epoch": model.history.best_epoch,
        },
        "weights_digest": model_digest(model),
        "data": {path.name: sha256(path) for path in paths},
        "n_train": len(train),
        "n_test": len(subject.labels),
        "lengths": [int(subject.lengths.min()), int(subject.lengths.max())],
        "accuracy_by_elements": accuracy,
        "efficiency_gap": gap,
        "agreement": measures.agreement(same, exact, subject.labels, settings.max_subsequences),
        "discard": discarded,
        **surroundings(),
        "wall_seconds": {name: round(value, 2) for name, value in seconds.items()},
    }
    _save(settings.out / "exact.nc", subject, exact, elements, settings, "Exact()")
    _save(settings.out / "sampled.nc", subject, sampled, everything, settings, repr(sampler))
    title = experiment.problem
    pictures.plot_accuracy(accuracy, settings.out / "accuracy_by_elements.png", title)
    pictures.plot_discard(discarded, settings.out / "discard.png", title)
    pictures.plot_examples(subject, elements, exact, settings.out)
    write_json(settings.out / "summary.json", summary)
    return summary


def _selected(test: ej.data.ts.Sequences, settings: Settings) -> np.ndarray:
    """Indices of the test sequences to measure on."""
    rows = np.arange(len(test))
    if settings.limit is not None and settings.limit < len(test):
        rows = ej.data.segment_centres(len(test), settings.limit)
    longest = test.lengths[rows].max()
    expected = f"at most {longest}, the elements of the longest test sequence"
    expect(settings.n_elements <= longest, "n_elements", expected, settings.n_elements)
    return rows


def _discard(
    subject: measures.Trained,
    elements: Sequence[np.ndarray],
    exact: Sequence[ej.Attribution],
    settings: Settings,
) -> dict[str, Any]:
    """Discard curves of the sequences that have `n_elements` elements."""
    rows = np.flatnonzero(subject.lengths >= settings.n_elements)
    labels = subject.labels[rows]
    curves = measures.discard(
        subject,
        np.stack([subject.sequences[i][elements[i]] for i in rows]),
        np.stack([exact[i].values[:, c] for i, c in zip(rows, labels, strict=True)]),
        labels,
        settings.n_random,
        rng=np.random.default_rng(settings.seed),
    )
    return measures.discard_summary(curves, settings)


def _save(
    path: Path,
    subject: measures.Trained,
    records: Sequence[ej.Attribution],
    elements: Sequence[np.ndarray],
    settings: Settings,
    estimator: str,
) -> None:
    digest = model_digest(subject.model)
    ej.results.save(
        path,
        records,
        uids=subject.uids,
        class_names=subject.model.class_names,
        labels=subject.labels,
        element_index=elements,
        settings={"estimator": estimator, "weights_digest": digest, **as_json(settings)},
        overwrite=True,
    )


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Records the wall time of a block, with compilation."""
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start


def findings(
    expected_accuracy: float, rows: Sequence[dict[str, Any]], discarded: dict[str, Any], gap: float
) -> list[Finding]:
    """Accuracy, differences between orders of dropping, and efficiency gap."""
    accuracy, bound = 100 * rows[-1]["accuracy"], 100 * expected_accuracy
    found = [
        Finding(
            "accuracy from all elements (%)", f">= {bound:g}", accuracy, agrees=accuracy >= bound
        )
    ]
    for pair, row in discarded["accuracy_difference"].items():
        name = f"accuracy while dropping, {pair} (points)"
        found.append(finding(name, row, above(row), "> 0"))
    name = "largest efficiency gap of exact ESVs"
    return [*found, Finding(name, f"< {_EFFICIENCY:g}", gap, agrees=gap < _EFFICIENCY)]


def table(summary: dict[str, Any]) -> str:
    """The numbers as Markdown."""
    names = ("n", "accuracy", "n_sequences", "left_out", "method")
    rows = [
        (row["n"], f"{100 * row['accuracy']:.1f}", *(row[name] for name in names[2:]))
        for row in summary["accuracy_by_elements"]
    ]
    head = ("elements", "accuracy (%)", "sequences", "left out", "f^ms")
    parts = [f"{summary['experiment']}, seed {summary['seed']}", markdown(head, rows)]
    pooled = summary["agreement"]["pooled"]
    if pooled["n_sequences"]:
        cells = (
            pooled["n_sequences"],
            f"{100 * pooled['relative_error']:.2f}",
            f"{pooled['pearson']:.4f}",
            f"{pooled['lad_slope']:.4f}",
        )
        head = ("sampled and exact ESVs, sequences", "error (%)", "Pearson r", "LAD slope")
        parts.append(markdown(head, [cells]))
    orders = summary["discard"]["accuracy"]
    dropped = summary["discard"]["dropped"]
    rows = [(k, *(written(at(curve, k)) for curve in orders.values())) for k in dropped]
    count = summary["discard"]["n_sequences"]
    parts.append(markdown((f"dropped, accuracy (%) of {count} sequences", *orders), rows))
    parts.append(findings_table(summary["findings"]))
    parts.append(f"{sum(summary['wall_seconds'].values()):.0f} s, with compilation")
    return "\n\n".join(parts)
