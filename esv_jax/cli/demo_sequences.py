"""`esv-jax demo --what sequences`: train, explain, sample, on sequences with a known answer."""

from __future__ import annotations

import time
from pathlib import Path

import jax
import numpy as np

from esv_jax import data, metrics, models, plots, results
from esv_jax.attribution import Attribution
from esv_jax.cli.printing import say, signed, table
from esv_jax.estimators import Constructive
from esv_jax.explanations import explain_batch
from esv_jax.files import expect_writable, make_folder
from esv_jax.games import make_game

_EXPLAINED = 6  # sequences that are sampled as well


def demo_sequences(out: Path, seed: int, n_train: int) -> None:
    """Train heads on generated sequences and explain some of them, exactly and by sampling.

    Classes differ by the order of events alone, so the elements that show events are what an
    explanation should find.

    Args:
      out: folder for model.safetensors, results.nc and esv.png.
      seed: of the data, the training and the sampling.
      n_train: training sequences.
    """
    started = time.perf_counter()
    make_folder(out)
    expect_writable(out / "results.nc")
    train_key, test_key, sample_key = jax.random.split(jax.random.key(seed), 3)
    train = data.temporal_order(n_train, key=train_key, n=12, n_events=4)
    test = data.temporal_order(128, key=test_key, n=12, n_events=4)

    say(f"Training heads for 1..8 elements on {n_train} generated sequences of 12")
    config = models.TrainConfig(
        n_max=8, hidden_dim=64, dropout=0.2, max_epochs=30, patience=10, seed=seed
    )
    model = models.train_heads(
        list(train.features),
        train.labels,
        len(train.class_names),
        config,
        class_names=train.class_names,
        progress=True,
    )
    models.save_model(out / "model.safetensors", model)

    say(f"Explaining {len(test)} test sequences exactly, {_EXPLAINED} of them by sampling too")
    game = make_game(model.heads)
    exact = explain_batch(game, test.features, prior=model.prior)
    sampled = explain_batch(
        game,
        test.features[:_EXPLAINED],
        prior=model.prior,
        estimator=Constructive(max_subsequences=256, iterations=4),
        key=sample_key,
    )
    results.save(
        out / "results.nc",
        [exact[i] for i in range(len(test))],
        uids=[f"demo-{i}" for i in range(len(test))],
        class_names=train.class_names,
        labels=test.labels.tolist(),
        settings={"command": "demo", "seed": seed, "estimator": "Exact()"},
        overwrite=True,
    )
    _show(out, test, exact, sampled)
    say(f"Model, results and picture in {out}/ ({time.perf_counter() - started:.0f} s)")


def _show(
    out: Path, test: data.SyntheticSequences, exact: Attribution, sampled: Attribution
) -> None:
    own = np.take_along_axis(np.asarray(exact.values), test.labels[:, None, None], 2)[..., 0]
    scores = np.take_along_axis(np.asarray(exact.scores), test.labels[:, None], 1)[:, 0]
    i = int(np.argmax(scores[:_EXPLAINED]))
    label = int(test.labels[i])
    one, other = exact[i], sampled[i]
    assert other.std_error is not None
    shows = [test.event_names[e] if e >= 0 else "" for e in test.events[i]]
    rows = [
        (
            element,
            shows[element] or "-",
            signed(own[i, element]),
            signed(float(other.values[element, label])),
            f"{float(other.std_error[element, label]):.3f}",
        )
        for element in range(one.n)
    ]
    prior = float(one.prior[label])
    say(f"\nSequence {i} of class '{test.class_names[label]}':")
    say(f"score {scores[i]:.3f} = prior {prior:.3f} + sum of ESVs {own[i].sum():+.3f}")
    table("", ["element", "shows", "exact ESV", "sampled ESV", "std error"], rows)

    accuracy = (np.argmax(exact.scores, -1) == test.labels).mean()
    pairs = [
        (values[shown][:, None] > values[~shown][None, :]).mean()
        for values, shown in zip(own, np.asarray(test.informative), strict=True)
    ]
    approx = np.take_along_axis(
        np.asarray(sampled.values), test.labels[:_EXPLAINED, None, None], 2
    )[..., 0]
    error = np.asarray(metrics.relative_error(approx, own[:_EXPLAINED])).mean()
    say(f"Test accuracy {accuracy:.1%}")
    say(f"An element that shows an event ranks above one that does not: {np.mean(pairs):.1%}")
    say(f"Sampled against exact values, mean relative error: {error:.1%}")
    labels = [f"{k}\n{event}" if event else str(k) for k, event in enumerate(shows)]
    figure = plots.plot_sequence(
        one, [label], class_names=test.class_names, element_labels=labels, title=f"Sequence {i}"
    )
    plots.save_figure(figure, out / "esv.png")
