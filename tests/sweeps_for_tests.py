"""Small sets of sequences to sweep, and the process in which tests sweep them.

Run as a program: `python -m tests.sweeps_for_tests FOLDER [OPTIONS as JSON]` sweeps the set in
FOLDER once, as `run_sweep` does.
"""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import numpy as np

import esv_jax as ej

N_CLASSES, WIDTH = 4, 3
LENGTHS = (3, 5, 2, 5, 6, 3, 5, 2, 6, 5, 3, 3, 5, 2, 6, 5, 5, 3, 2, 5)


def run_killer(code, folder, n_kills, timeout):
    """Run a program that kills its children, with arguments FOLDER 0 N; return its JSON."""
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(folder), "0", str(n_kills)],
        cwd=Path(__file__).resolve().parent.parent,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


def make_model(seed=0, n_classes=N_CLASSES, width=WIDTH):
    rng = np.random.default_rng(seed)
    heads = [
        {
            "w1": rng.normal(size=(s * width, 5)).astype(np.float32),
            "b1": rng.normal(size=5).astype(np.float32),
            "w2": rng.normal(size=(5, n_classes)).astype(np.float32),
            "b2": rng.normal(size=n_classes).astype(np.float32),
        }
        for s in (1, 2, 3)
    ]
    names = tuple(f"kind {c}" for c in range(n_classes))
    prior = rng.dirichlet(np.ones(n_classes))
    return ej.models.TrainedModel(ej.models.stack_heads(heads), prior, names)


def make_sequences(lengths=LENGTHS, seed=1, width=WIDTH):
    rng = np.random.default_rng(seed)
    return {
        f"video-{i}": rng.normal(size=(n, width)).astype(np.float32) for i, n in enumerate(lengths)
    }


def write_set(folder, sequences=None, labels=True):
    """Write features.hdf and model.safetensors to a folder."""
    sequences = make_sequences() if sequences is None else sequences
    rows = (
        (uid, x, {"action": i % N_CLASSES} if labels else {})
        for i, (uid, x) in enumerate(sequences.items())
    )
    ej.data.write_features(folder / "features.hdf", rows, WIDTH, overwrite=True)
    ej.models.save_model(folder / "model.safetensors", make_model())


def run_sweep(folder, out="out", **options):
    """Sweep the set in a folder; options as `ej.sweep` takes them, the estimator by its repr."""
    estimators = {"Constructive": ej.Constructive, "Surrogate": ej.Surrogate, "Exact": ej.Exact}
    name, *settings = options.pop("estimator", ["auto"])
    options["estimator"] = estimators[name](*settings) if name in estimators else "auto"
    return ej.sweep(
        folder / "features.hdf",
        folder / "model.safetensors",
        folder / out,
        key=jax.random.key(options.pop("seed", 7)),
        **options,
    )


def shards_of(folder):
    """Bytes of all shards of a store, by name."""
    return {path.name: path.read_bytes() for path in sorted((folder / "shards").glob("0*.nc"))}


if __name__ == "__main__":
    given = json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}
    if "hosts" in given:
        from esv_jax.sweeps import connect

        connect(given.pop("coordinator"), given.pop("hosts"), given.pop("host"))
    if given.pop("cluster", False):
        from esv_jax.sweeps import connect

        connect(cluster=True)
    report = run_sweep(Path(sys.argv[1]), **given)
    print(json.dumps({"explained": report.n_explained, "devices": jax.local_device_count()}))
