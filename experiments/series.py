"""Training, explanation and discard curves on labelled `.ts` sequences.

Shared by `japanese_vowels` and `basic_motions`: settings, the run, its tables and stored files.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import esv_jax as ej
from esv_jax.checks import expect
from esv_jax.models.trained import model_digest
from experiments import series_measures as measures
from experiments import series_pictures as pictures
from experiments.harness import (
    Finding,
    above,
    as_json,
    as_rows,
    check_counts,
    command,
    finding,
    findings_table,
    markdown,
    surroundings,
    write_json,
)
from experiments.sequences import Labelled, elements_of, read_problem, train_on
from experiments.statistics import at, written

_SIZES = (1, 2, 3, 4, 6, 8, 12, 16)
_EFFICIENCY = 1e-5  # largest gap of exact ESVs that rounding explains


class Experiment(NamedTuple):
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
    about: str | None


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
        check_counts(self, "n_elements", "n_random", "n_resamples", "limit")


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
    n, seed, out = settings.n_elements, settings.seed, settings.out
    train, test, data = read_problem(settings.data, experiment.problem, settings.limit)
    longest = test.lengths.max()
    wanted = f"at most {longest}, the elements of the longest test sequence"
    expect(n <= longest, "n_elements", wanted, n)
    out.mkdir(parents=True, exist_ok=True)
    seconds: dict[str, float] = {}

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        seconds[name] = round(time.perf_counter() - start, 2)

    evaluate_key, sample_key = jax.random.split(jax.random.key(seed))
    config = ej.models.TrainConfig(n_max=settings.n_max, max_epochs=settings.max_epochs, seed=seed)
    with timed("train"):
        model = train_on(ej.models.train_heads, train, config)
    ej.models.save_model(out / "model.safetensors", model)
    subject = Labelled(trn=model, sequences=test.sequences, labels=test.labels, uids=test.uids)
    elements = elements_of(test.sequences, n)
    everything = [np.arange(len(x)) for x in test.sequences]
    sampler = ej.Constructive(settings.max_subsequences, settings.iterations)

    def sampled(elements: list[np.ndarray], desc: str) -> list[ej.Attribution]:
        return measures.explain_all(subject, elements, sampler, key=sample_key, desc=desc)

    with timed("exact ESVs"):
        exact = measures.explain_all(subject, elements, ej.Exact(), desc="exact ESVs")
    with timed("accuracy by elements"):
        sizes = [size for size in _SIZES if size <= n]
        accuracy = measures.accuracy_by_elements(subject, exact, sizes, n, key=evaluate_key)
    with timed("sampled ESVs, same elements"):
        same = sampled(elements, "sampled ESVs of the same elements")
    with timed("sampled ESVs, all elements"):
        whole = sampled(everything, "sampled ESVs of all elements")
    with timed("discarding"):
        rows = np.flatnonzero(subject.lengths >= n)
        labels = subject.labels[rows]
        xs = np.stack([subject.sequences[i][elements[i]] for i in rows])
        esv = np.stack([exact[i].values[:, c] for i, c in zip(rows, labels, strict=True)])
        discarded = measures.discard(subject, xs, esv, labels, settings.n_random, settings)

    gap = max(float(abs(record.efficiency_gap()).max()) for record in exact)
    digest = model_digest(model)
    summary = {
        "experiment": experiment.name,
        "findings": as_rows(findings(experiment.expected_accuracy, accuracy, discarded, gap)),
        "seed": seed,
        "settings": as_json(settings),
        "training": {
            **dataclasses.asdict(config),
            "epochs": len(model.history.train_loss),
            "best_epoch": model.history.best_epoch,
        },
        "weights_digest": digest,
        "data": data,
        "n_train": len(train),
        "n_test": len(test),
        "lengths": [int(test.lengths.min()), int(longest)],
        "accuracy_by_elements": accuracy,
        "efficiency_gap": gap,
        "agreement": measures.agreement(same, exact, test.labels, settings.max_subsequences),
        "discard": discarded,
        **surroundings(),
        "wall_seconds": seconds,
    }
    for name, records, index, estimator in (
        ("exact.nc", exact, elements, "Exact()"),
        ("sampled.nc", whole, everything, repr(sampler)),
    ):
        ej.results.save(
            out / name,
            records,
            uids=test.uids,
            class_names=model.class_names,
            labels=test.labels,
            element_index=index,
            settings={"estimator": estimator, "weights_digest": digest, **as_json(settings)},
            overwrite=True,
        )
    pictures.plot_accuracy(accuracy, out / "accuracy_by_elements.png", experiment.problem)
    pictures.plot_discard(discarded, out / "discard.png", experiment.problem)
    pictures.plot_examples(subject, elements, exact, out)
    write_json(out / "summary.json", summary)
    return summary


def findings(
    expected_accuracy: float, rows: Sequence[dict[str, Any]], discarded: dict[str, Any], gap: float
) -> list[Finding]:
    """Accuracy, differences between orders of dropping, and efficiency gap."""
    found, bound = 100 * rows[-1]["accuracy"], 100 * expected_accuracy
    name = "accuracy from all elements (%)"
    accuracy = Finding(name, f">= {bound:g}", found, agrees=found >= bound)
    orders = [
        finding(f"accuracy while dropping, {pair} (points)", row, above(row), "> 0")
        for pair, row in discarded["accuracy_difference"].items()
    ]
    name = "largest efficiency gap of exact ESVs"
    return [accuracy, *orders, Finding(name, f"< {_EFFICIENCY:g}", gap, agrees=gap < _EFFICIENCY)]


def table(summary: dict[str, Any]) -> str:
    """The numbers as Markdown."""
    rows = [
        (row["n"], f"{100 * row['accuracy']:.1f}", row["n_sequences"], row["left_out"])
        + (row["method"],)
        for row in summary["accuracy_by_elements"]
    ]
    head = ("elements", "accuracy (%)", "sequences", "left out", "f^ms")
    parts = [f"{summary['experiment']}, seed {summary['seed']}", markdown(head, rows)]
    pooled = summary["agreement"]["pooled"]
    if pooled["n_sequences"]:
        cells = (pooled["n_sequences"], f"{100 * pooled['relative_error']:.2f}")
        cells += (f"{pooled['pearson']:.4f}", f"{pooled['lad_slope']:.4f}")
        head = ("sampled and exact ESVs, sequences", "error (%)", "Pearson r", "LAD slope")
        parts.append(markdown(head, [cells]))
    discarded = summary["discard"]
    orders = discarded["accuracy"]
    rows = [(k, *(written(at(x, k)) for x in orders.values())) for k in discarded["dropped"]]
    head = (f"dropped, accuracy (%) of {discarded['n_sequences']} sequences", *orders)
    seconds = f"{sum(summary['wall_seconds'].values()):.0f} s, with compilation"
    return "\n\n".join([*parts, markdown(head, rows), findings_table(summary["findings"]), seconds])
