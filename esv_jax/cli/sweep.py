"""`esv-jax sweep`: Element Shapley Values of a whole set, on all devices and hosts."""

from __future__ import annotations

import dataclasses
import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from esv_jax.cli.options import SequenceOptions, settings_of
from esv_jax.cli.printing import BAD_INPUT, complain, progress, say
from esv_jax.data.classes import read_labels
from esv_jax.files import make_folder
from esv_jax.sweeps import connect, sweep
from esv_jax.sweeps.run import Progress, SweepReport

_SHOWN = 10  # failures that are printed
_EVERY = 10.0  # seconds between two lines of progress
_SAME = (  # options that `sweep` takes as they are
    *("classes", "marginals", "uids", "limit", "min_elements", "batch_size", "shard_size"),
    *("strict", "retry_failed", "overwrite"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep(SequenceOptions):
    """Explain a whole set of videos or sequences; continue an interrupted run.

    Examples: esv-jax sweep features.hdf --model m.safetensors --frames 8 --out results;
    srun esv-jax sweep features.hdf --model m.safetensors --cluster --out /shared/results
    """

    out: Path = Path("results")
    """Folder of the results; the same command continues an interrupted run."""
    classes: str = "all"
    """Classes whose values are stored: all, or some of gt (true), pred (predicted), top5 (any
    number), separated by commas. Scores of all classes are stored."""
    marginals: bool = False
    """Also store mean marginal contributions by scale."""
    labels: Path | None = None
    """CSV of true classes of videos (uid,class)."""
    class_names: Path | None = None
    """CSV of class names (name,id) that replace the model's."""
    min_elements: int = 1
    """Smallest number of elements; shorter sequences are recorded as failed."""
    batch_size: int | None = None
    """Number of videos that one device explains together; default by shape and memory. The last
    bits of values depend on it."""
    shard_size: int | None = None
    """Number of videos per file, the most that a killed run loses; default by their cost."""
    strict: bool = False
    """End at the first video that cannot be explained, instead of recording the reason."""
    retry_failed: bool = False
    """Explain videos again that failed in an earlier run."""
    overwrite: bool = False
    """Delete the results of another sweep in the output folder."""
    compilation_cache: Path | None = None
    """Folder to keep compiled programs in, for later runs on this machine; default none."""
    cluster: bool = False
    """Join the other hosts of the cluster that JAX detects: SLURM, Open MPI, TPU pods, ..."""
    coordinator: str | None = None
    """ADDRESS:PORT of the first of several hosts, the same on all; for use without a cluster."""
    hosts: int | None = None
    """Number of hosts."""
    host: int | None = None
    """Index of this host, 0 to hosts - 1. --out and the data have the same path on all hosts."""

    def run(self) -> int:
        """Join the other hosts, explain, print."""
        connect(self.coordinator, self.hosts, self.host, cluster=self.cluster)
        if self.compilation_cache is not None:
            keep_programs(self.compilation_cache)
        loaded, inputs = self.load(self.class_names)
        first = jax.process_index() == 0
        if loaded.note and first:
            say(loaded.note)
        if self.labels is not None:
            known = read_labels(self.labels, self.class_names)
            labels = np.array([known.get(uid, -1) for uid in inputs.uids])
            inputs = dataclasses.replace(inputs, labels=labels)
        names = inputs.class_names if self.class_names is not None else None
        with _ProgressReport() as report_progress:
            report = sweep(
                inputs,
                loaded.trained,
                self.out,
                frames=self.n_frames,
                estimator=self.make_estimator(),
                key=jax.random.key(self.seed),
                class_names=names,
                digest=loaded.digest,
                **{name: getattr(self, name) for name in _SAME},
                settings={"seed": self.seed} | settings_of("sweep", self, loaded.digest),
                progress=report_progress,
            )
        if first:
            _show(report)
            for uid, reason in itertools.islice(report.failures.items(), _SHOWN):
                complain(f"{uid}: {reason}")
        return BAD_INPUT if report.failures else 0


def keep_programs(folder: Path) -> None:
    """Keep every compiled program in a folder, for later runs on the same kind of machine."""
    make_folder(folder)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


class _ProgressReport:
    """Prints progress: one host at a terminal as a bar, otherwise as a line every few seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._started, self._last = clock, clock(), clock()
        self._bar: Any = None
        self._shown = 0

    def __enter__(self) -> _ProgressReport:
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
    """Print the summary at the end."""
    running = report.seconds - report.compile_seconds
    per_second = report.n_explained / running if running > 0 else 0.0
    each = 1e3 * running / report.n_explained if report.n_explained else 0.0
    rows = [
        ("videos", f"{report.n_videos:,}"),
        ("explained now", f"{report.n_explained:,}"),
        ("explained before", f"{report.n_before:,}"),
        ("failed", f"{len(report.failures):,}"),
        ("time", f"{report.seconds:.1f} s, {per_second:,.0f} videos/s, {each:.3g} ms a video"),
        ("planning", f"{report.planning_seconds:.1f} s"),
        ("compiling", f"{report.compile_seconds:.1f} s (programs: {report.n_programs})"),
        ("padding", f"{100 * report.padding_waste:.1f} % of the elements computed"),
    ]
    if report.recomputed:
        rows.append(("damaged, recomputed", f"{report.recomputed} shards"))
    if report.block_sizes:
        sizes = ", ".join(f"{size} of {n} elements" for n, size in report.block_sizes.items())
        rows.append(("videos together", sizes))
    if report.n_hosts > 1:
        those = "times, and the videos explained now, are those of the first"
        rows.append(("hosts", f"{report.n_hosts}; {those}"))
    width = max(len(name) for name, _ in rows) + 2
    for name, text in rows:
        say(f"{name + ':':<{width}}{text}")
    say(f"Results in {report.path}; summarise them with: esv-jax results {report.path}")
