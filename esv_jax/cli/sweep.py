"""`esv-jax sweep`: a whole set of videos or sequences, on all devices and hosts, to one store."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro

from esv_jax import data
from esv_jax.cli.chosen_estimator import EstimatorName, choose_by_name
from esv_jax.cli.chosen_model import choose_model
from esv_jax.cli.outputs import settings_of
from esv_jax.cli.printing import BAD_INPUT, complain, progress, say
from esv_jax.data.classes import read_labels
from esv_jax.data.inputs import is_video
from esv_jax.estimators import Constructive, Surrogate
from esv_jax.files import make_folder
from esv_jax.sweeps import Progress, SweepReport, connect, sweep

_SHOWN = 10  # failures that are printed
_EVERY = 10.0  # seconds between lines of a log


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Explain a whole set of videos or sequences; continue where an earlier run ended.

    Examples: esv-jax sweep features.hdf --model m.safetensors --frames 8 --out results;
    srun esv-jax sweep features.hdf --model m.safetensors --cluster --out /shared/results
    """

    data: tyro.conf.Positional[Path]
    """Sequences: an HDF5 feature store, .ts, .npy (n, D) or (V, n, D); or a folder or list of
    videos."""
    model: Path | None = None
    """Weights of esv-jax train or import-play-fair; for videos by default the shipped model."""
    backbone: Path | None = None
    """Weights that turn frames of videos into the features of --model."""
    out: Path = Path("results")
    """Folder of the results; the same command continues those of a run that was stopped."""
    frames: int | Literal["all"] = "all"
    """Elements to explain, at segment centres; shorter sequences keep all theirs."""
    classes: str = "all"
    """Whose values are kept: all, or some of gt (true), pred (predicted), top5 (any number),
    separated by commas. Scores are kept of all classes."""
    estimator: EstimatorName = "auto"
    """auto is exact where it fits, beyond it the best sampled one that the model allows."""
    surrogate: Surrogate = Surrogate()
    """Settings of the surrogate estimator."""
    constructive: Constructive = Constructive()
    """Settings of the paper's Algorithm 1."""
    marginals: bool = False
    """Keep mean marginal contributions by scale, too."""
    label: str | None = None
    """Which label of an HDF5 store is the class; default "action", or the only one."""
    labels: Path | None = None
    """CSV of true classes of videos (uid,class)."""
    class_names: Path | None = None
    """CSV of class names (name,id), in place of the model's."""
    uids: tuple[str, ...] = ()
    """Videos to explain; default all."""
    limit: int | None = None
    """Explain the first N videos."""
    min_elements: int = 1
    """Shorter sequences are recorded as failed."""
    batch_size: int | None = None
    """Videos explained together by one device; default by shape and memory. Last bits depend on
    it."""
    shard_size: int | None = None
    """Videos per file, and at most lost when the run is killed; default by their cost."""
    seed: int = 0
    """Seed of the sampled estimators; draws depend on it and on the uid alone."""
    strict: bool = False
    """End at the first video that cannot be explained; else it is recorded with its reason."""
    retry_failed: bool = False
    """Try those again that failed in an earlier run."""
    overwrite: bool = False
    """Delete the results of another sweep in the output folder."""
    compilation_cache: Path | None = None
    """Folder that keeps compiled programs for later runs on this machine; default none."""
    cluster: bool = False
    """One of several hosts, found by JAX from the cluster: SLURM, Open MPI, TPU pods, ..."""
    coordinator: str | None = None
    """Without a cluster: ADDRESS:PORT of the first of several hosts, for all the same."""
    hosts: int | None = None
    """Number of hosts."""
    host: int | None = None
    """Which one this is, 0 to hosts - 1. All must see --out, and the data, under the same path."""

    def run(self) -> int:
        """Join the other hosts, explain, print."""
        connect(self.coordinator, self.hosts, self.host, cluster=self.cluster)
        if self.compilation_cache is not None:
            keep_programs(self.compilation_cache)
        videos = is_video(self.data)
        chosen = choose_model(self.model, self.backbone, videos=videos)
        first = jax.process_index() == 0
        if chosen.note and first:
            say(chosen.note)
        if videos and chosen.encoder is not None:
            inputs = data.open_videos(self.data, chosen.encoder, self.class_names)
        else:
            inputs = data.open_inputs(self.data, self.label, self.class_names)
        if self.labels is not None:
            known = read_labels(self.labels, self.class_names)
            labels = np.array([known.get(uid, -1) for uid in inputs.uids])
            inputs = dataclasses.replace(inputs, labels=labels)
        names = inputs.class_names if self.class_names is not None else None
        with _Watch() as watch:
            report = sweep(
                inputs,
                chosen.trained,
                self.out,
                frames=None if self.frames == "all" else self.frames,
                classes=self.classes,
                estimator=choose_by_name(self.estimator, self.surrogate, self.constructive),
                key=jax.random.key(self.seed),
                marginals=self.marginals,
                class_names=names,
                digest=chosen.digest,
                uids=self.uids,
                limit=self.limit,
                min_elements=self.min_elements,
                batch_size=self.batch_size,
                shard_size=self.shard_size,
                strict=self.strict,
                retry_failed=self.retry_failed,
                overwrite=self.overwrite,
                settings={"seed": self.seed} | settings_of("sweep", self, chosen.digest),
                progress=watch,
            )
        if first:
            _show(report)
            for uid, reason in list(report.failures.items())[:_SHOWN]:
                complain(f"{uid}: {reason}")
        return BAD_INPUT if report.failures else 0


def keep_programs(folder: Path) -> None:
    """Keep every compiled program in a folder, for later runs on the same kind of machine."""
    make_folder(folder)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


class _Watch:
    """Progress: a bar at a terminal, else a line every few seconds; of several hosts lines."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._started, self._last = clock, clock(), clock()
        self._bar: Any = None
        self._shown = 0

    def __enter__(self) -> _Watch:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, now: Progress) -> None:
        if now.n_hosts == 1 and sys.stderr.isatty():
            if self._bar is None:
                self._bar = progress(now.of, "Sweeping", "video").__enter__()
            self._bar.update(now.done - self._shown)
            self._shown = now.done
            if now.failed:
                self._bar.set_postfix_str(f"{now.failed} failed")
            return
        at = self._clock()
        if at - self._last < _EVERY and now.done < now.of:
            return
        self._last = at
        rate = now.done / max(at - self._started, 1e-9)
        left = (now.of - now.done) / max(rate, 1e-9)
        line = (
            f"host {now.host + 1}/{now.n_hosts}: {now.done:,} of {now.of:,} videos, "
            f"{rate:,.1f} videos/s, {_clock_text(left)} left, {now.failed} failed"
        )
        print(line, file=sys.stderr, flush=True)


def _clock_text(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def _show(report: SweepReport) -> None:
    """The table at the end."""
    running = report.seconds - report.compile_seconds
    per_second = report.n_explained / running if running > 0 else 0.0
    each = 1e3 * running / report.n_explained if report.n_explained else 0.0
    rows = [
        ("videos", f"{report.n_videos:,}"),
        ("explained now", f"{report.n_explained:,}"),
        ("were there before", f"{report.n_before:,}"),
        ("failed", f"{len(report.failures):,}"),
        ("time", f"{report.seconds:.1f} s, {per_second:,.0f} videos/s, {each:.3g} ms a video"),
        ("planning", f"{report.planning_seconds:.1f} s"),
        ("compiling", f"{report.compile_seconds:.1f} s (programs: {report.n_programs})"),
        ("padding", f"{100 * report.padding_waste:.1f} % of the elements computed"),
    ]
    if report.recomputed:
        rows.append(("damaged, made again", f"{report.recomputed} shards"))
    if report.block_sizes:
        sizes = ", ".join(f"{size} of {n} elements" for n, size in report.block_sizes.items())
        rows.append(("videos together", sizes))
    if report.n_hosts > 1:
        rows.append(("hosts", f"{report.n_hosts}; times and counts of now are of the first"))
    width = max(len(name) for name, _ in rows) + 2
    for name, text in rows:
        say(f"{name + ':':<{width}}{text}")
    say(f"Results in {report.path}; esv-jax results {report.path} says more.")
