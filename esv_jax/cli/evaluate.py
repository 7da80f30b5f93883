"""`esv-jax evaluate`: attribution methods compared by metrics, with the metrics' reliability."""

from __future__ import annotations

import csv
import dataclasses
import functools
import itertools
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import jax
import numpy as np
import tyro

from esv_jax import __version__, data, maps
from esv_jax.batches import video_key
from esv_jax.checks import expect, expect_int, message
from esv_jax.cli.clips import ClipOptions, explain_each, read_clip
from esv_jax.cli.options import class_of, settings_of
from esv_jax.cli.printing import exit_code, progress, say, table
from esv_jax.data.video_files import find_videos
from esv_jax.files import JSONObject, atomic_path, make_folder
from esv_jax.maps.evaluation import ClipEvaluator, make_evaluator
from esv_jax.maps.evaluation_record import (
    ClipScores,
    Evaluation,
    EvaluationSummary,
    combine_scores,
)
from esv_jax.maps.map_metrics import METRICS as ALL_METRICS
from esv_jax.maps.methods import METHODS as ALL_METHODS
from esv_jax.maps.networks import probabilities
from esv_jax.models.clip_model import ClipModel, clip_model_digest
from esv_jax.results.layout import provenance

SYNTHETIC = "synthetic"
METHODS = ("lrp", "selective", "gradient_x_input", "grad_cam", "integrated_gradients", "random")
METRICS = ("insertion", "deletion")
EVIDENCE = ("pointing", "mass", "coverage", "temporal_grounding")
_HELD_OUT = 30000  # seed of clips that the package's network was not trained on
_FRAMES = 32  # of a synthetic clip, of which the network takes some
_FREE = ("data", "model", "classes", "n_clips", "limit", "out", "overwrite")
"""Options that scores do not depend on, given the clip, the class and the weights."""
_FORMAT = "esv_jax.clip_scores/1"
_WAY_OUT = "Add --overwrite, or choose another --out."


class _Clip(NamedTuple):
    """A prepared clip with its class and its evidence, where known."""

    clip: jax.Array
    label: str | None = None
    evidence: np.ndarray | None = None
    evidence_frames: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate(ClipOptions):
    """Compare attribution methods by how well they find what predictions rest on.

    Metrics: insertion and deletion of voxels; for synthetic clips, whose evidence is known, also
    the agreement of maps with the evidence. Each comes with its reliability. Scores are saved clip
    by clip; the same command continues an interrupted run. Writes evaluation.csv, evaluation.json
    and the scores of each clip.
    Example: esv-jax evaluate clips/ --methods lrp step random --iterations 200
    """

    data: tyro.conf.Positional[str] = SYNTHETIC
    """Folder or list (.txt, .csv) of videos, or one video; or the word synthetic, for clips with
    known evidence."""
    methods: tuple[str, ...] = METHODS
    """Methods: lrp, selective, discriminative, discriminative_spatial, grad_cam, gradient_x_input,
    integrated_gradients, smooth_grad, occlusion, esv_x_spatial, step, step_no_core, random; or all,
    which takes much longer."""
    metrics: tuple[str, ...] = ()
    """Metrics: insertion, deletion, insertion_minus_deletion, insertion_least_first,
    deletion_least_first; for synthetic clips also pointing, mass, coverage, temporal_grounding; or
    all. Default: the first two, and the last four where they apply."""
    target: Annotated[str, tyro.conf.arg(name="class")] = "pred"
    """Class to explain: pred, a name or an id; for synthetic clips also label, the true class."""
    n_clips: int = 8
    """Number of synthetic clips."""
    limit: int | None = None
    """Evaluate on the first N clips."""
    steps: int = 16
    """Number of steps of the insertion and deletion curves."""
    remove: Literal["blur", "fade"] = "blur"
    """Content of removed voxels in insertion and deletion."""
    units: Literal["pixels", "patches", "supervoxels"] = "pixels"
    """Units removed together in insertion and deletion: pixels, patches of 8 x 8 pixels in a frame,
    or about 200 supervoxels in a clip."""
    iterations: int = 800
    """Number of updates of the masks of step."""
    seed: int = 0
    """Seed of random methods and of the intervals."""
    overwrite: bool = False
    """Ignore and replace the scores in the output folder."""

    def run(self) -> int:
        """Evaluate, save, print."""
        expect(self.limit is None or self.limit >= 1, "limit", "a number >= 1", self.limit)
        model = self.load_network()
        expect_int("seed", self.seed, 0)
        evaluator = make_evaluator(
            model,
            methods=tuple(ALL_METHODS) if self.methods == ("all",) else self.methods,
            metrics=self._metrics(),
            settings=maps.MapSettings(iterations=self.iterations),
            steps=self.steps,
            remove=self.remove,
            units=self.units,
        )
        clips = dict([*self._clips(model).items()][: self.limit])
        make_folder(self.out)
        settings = settings_of("evaluate", self, clip_model_digest(model))
        settings |= {"methods": evaluator.methods, "metrics": evaluator.metrics}
        settings["esv_jax_version"] = __version__
        kept = {name: value for name, value in settings.items() if name not in _FREE}
        file = open_scores(self.out / "evaluation_clips.jsonl", kept, overwrite=self.overwrite)
        found: dict[str, ClipScores] = {}

        def evaluate(uid: str, read: Callable[[], _Clip]) -> None:
            found[uid] = self._scores(model, evaluator, file, uid, read())

        try:
            with progress(len(clips), "Judging", "clip") as bar:
                errors = explain_each(clips, evaluate, lambda: bar.update(1))
        finally:
            if found:
                self._report(evaluator, found, settings)
        return exit_code(errors)

    def check_class(self, model: ClipModel) -> None:
        """Refuse an unknown class, and labels for videos, which have none."""
        if self.target != "label":
            super().check_class(model)
        elif self.data != SYNTHETIC:
            expected, way_out = "pred, a name or an id, of videos", "Labels of videos are unknown."
            raise ValueError(message("class", expected, "'label'", way_out))

    def _metrics(self) -> tuple[str, ...]:
        """Return the chosen metrics, those of evidence only where it is known."""
        synthetic = self.data == SYNTHETIC
        kinds = {name: metric.takes for name, metric in ALL_METRICS.items()}
        known = [name for name in kinds if synthetic or not kinds[name].startswith("evidence")]
        if self.metrics == ("all",):
            return tuple(known)
        for name in self.metrics:
            if name in kinds and name not in known:
                expected = f"of videos, {', '.join(known)}"
                way_out = "The evidence is known for synthetic clips only."
                raise ValueError(message("metrics", expected, repr(name), way_out))
        return self.metrics or (METRICS + EVIDENCE if synthetic else METRICS)

    def _clips(self, model: ClipModel) -> dict[str, Callable[[], _Clip]]:
        """Return functions that read the clips, by uid."""
        if self.data != SYNTHETIC:
            videos = find_videos([Path(self.data)]).items()
            return {uid: functools.partial(_video_clip, model, uid, path) for uid, path in videos}
        n = expect_int("n_clips", self.n_clips, 1)
        at = data.segment_centres(_FRAMES, model.n_frames)
        made = data.synthetic_videos(n, seed=_HELD_OUT, n_frames=_FRAMES, frames=at)
        uids = enumerate(made.uids)
        return {uid: functools.partial(_synthetic_clip, model, made, i) for i, uid in uids}

    def _scores(
        self,
        model: ClipModel,
        evaluator: ClipEvaluator,
        file: ScoreFile,
        uid: str,
        one: _Clip,
    ) -> ClipScores:
        """Return the scores of a clip: stored ones of the same clip and class, or new ones."""
        scores = np.asarray(probabilities(model)(one.clip[None]))[0]
        expect(bool(np.isfinite(scores).all()), uid, "finite logits", scores)
        name = (one.label or "pred") if self.target == "label" else self.target
        c = class_of(name, scores, model.class_names)
        mark = f"{zlib.crc32(np.asarray(one.clip).tobytes()):08x}-{c}"
        if known := file.find(uid, mark):
            return known
        found = evaluator(
            one.clip,
            c,
            key=video_key(jax.random.key(self.seed), uid),
            evidence=one.evidence,
            evidence_frames=one.evidence_frames,
        )
        file.add(uid, mark, found)
        return found

    def _report(
        self, evaluator: ClipEvaluator, found: Mapping[str, ClipScores], settings: JSONObject
    ) -> None:
        """Print two tables; write the long table as CSV, everything as JSON."""
        evaluation = combine_scores(
            evaluator.methods, evaluator.metrics, [*found.values()], [*found]
        )
        summary = evaluation.summary(key=jax.random.key(self.seed))
        _write_csv(self.out / "evaluation.csv", tuple(found), evaluation)
        _write_json(self.out / "evaluation.json", evaluation, summary, settings)
        _print_summary(summary, len(found))
        n = len(evaluation.warnings)
        if n:
            say(f"{n} maps had no scores; the first: {evaluation.warnings[0]}")
        say(f"Scores of {len(found)} clips in {self.out}")


def _synthetic_clip(model: ClipModel, made: data.synthetic_video.SyntheticVideos, i: int) -> _Clip:
    mask = np.repeat(made.evidence_mask[i][..., None], 3, -1).astype(np.uint8) * 255
    return _Clip(
        model.prepare(made.clips[i]),
        made.class_names[made.labels[i]],
        model.shown(mask)[..., 0] > 127,
        made.evidence_frames[i],
    )


def _video_clip(model: ClipModel, uid: str, path: Path) -> _Clip:
    return _Clip(read_clip(model, uid, path).clip)


# Scores by clip, a text file: the settings as JSON in the first line, then a line for each clip


class ScoreFile(NamedTuple):
    """A file to which scores are appended.

    Attributes:
      path: its path.
      known: its scores when it was opened, by uid, with the digest (`mark`) of their input.
    """

    path: Path
    known: Mapping[str, tuple[str, ClipScores]]

    def find(self, uid: str, mark: str) -> ClipScores | None:
        """Return the stored scores of a clip, if its input has the same mark."""
        own, scores = self.known.get(uid, ("", None))
        return scores if own == mark else None

    def add(self, uid: str, mark: str, found: ClipScores) -> None:
        """Append the scores of a clip at once."""
        scores = [[None if np.isnan(v) else v for v in row] for row in found.scores.tolist()]
        line = {"uid": uid, "mark": mark, "scores": scores, "seconds": found.seconds.tolist()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps({**line, 'warnings': found.warnings})}\n")


def open_scores(path: Path, settings: JSONObject, *, overwrite: bool) -> ScoreFile:
    """Open the file of an earlier run with the same settings, or create one.

    Args:
      settings: everything that scores depend on besides the clips, as JSON.
    Raises:
      ValueError: a file of other settings, or of another kind.
    """
    wanted = json.loads(json.dumps(settings))
    lines, known = [], {}
    if path.exists() and not overwrite:
        try:
            text = path.read_text("utf-8")
            complete = text[: text.rfind("\n") + 1].splitlines()  # a kill may cut the last line
            header, *lines = map(json.loads, complete)
            fits, old = header["format"] == _FORMAT, dict(header["settings"])
            known = {line["uid"]: (line["mark"], _clip_scores(line)) for line in lines}
        except (ValueError, KeyError, TypeError):
            fits, old = False, {}
        expect(fits, str(path), "scores of an earlier run", "another file", _WAY_OUT)
        differ = sorted(name for name in {*old, *wanted} if old.get(name) != wanted.get(name))
        got = f"{path} ({', '.join(f'{name} {old.get(name)!r}' for name in differ)})"
        expect(not differ, "out", "a folder without scores of other settings", got, _WAY_OUT)
    with atomic_path(path) as temporary:  # drops a line that was cut
        whole = [{"format": _FORMAT, "settings": wanted}, *lines]
        temporary.write_text("".join(f"{json.dumps(line)}\n" for line in whole), "utf-8")
    return ScoreFile(path, known)


def _clip_scores(line: JSONObject) -> ClipScores:
    scores = np.array(line["scores"], np.float64)  # None is NaN
    return ClipScores(scores, np.array(line["seconds"], np.float64), tuple(line["warnings"]))


# The report


def _write_csv(path: Path, uids: Sequence[str], evaluation: Evaluation) -> None:
    """Write a line for each clip, method and metric; an undefined score is empty."""
    with (
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["uid", "method", "metric", "score"])
        for (i, uid), (m, method), (k, metric) in itertools.product(
            enumerate(uids), enumerate(evaluation.methods), enumerate(evaluation.metrics)
        ):
            score = float(evaluation.scores[k, i, m])
            writer.writerow([uid, method, metric, "" if np.isnan(score) else score])


def _write_json(
    path: Path, evaluation: Evaluation, summary: EvaluationSummary, settings: JSONObject
) -> None:
    """Write means, reliabilities, warnings and settings."""
    title = "Attribution methods judged by metrics"
    content = provenance(title, "esv_jax.evaluation/1", None, settings)
    content |= {
        "settings": settings,
        "n_clips": evaluation.scores.shape[1],
        "summary": [_without_nan(row) for row in summary.table()],
        "metrics": [_without_nan(row) for row in summary.metric_table()],
        "warnings": evaluation.warnings,
    }
    with atomic_path(path) as temporary:
        temporary.write_text(f"{json.dumps(content, indent=1, allow_nan=False)}\n", "utf-8")


def _without_nan(row: Mapping[str, object]) -> JSONObject:
    return {
        name: None if isinstance(value, float) and np.isnan(value) else value
        for name, value in row.items()
    }


def _print_summary(summary: EvaluationSummary, n: int) -> None:
    """Print the means over n clips by method, and the reliability of the metrics."""
    signs = ["↑" if higher else "↓" for higher in summary.higher_is_better]
    names = [name.replace("_", " ") for name in summary.metrics]
    columns = [f"{name} {sign}" for name, sign in zip(names, signs, strict=True)]
    means = [
        [
            method,
            *(_with_interval(summary, k, m) for k in range(len(names))),
            f"{summary.seconds[m]:.2f}",
        ]
        for m, method in enumerate(summary.methods)
    ]
    clips = "1 clip" if n == 1 else f"{n} clips, with 95 % intervals"
    table(f"Means over {clips} (↑ high is good, ↓ low)", ["method", *columns, "s / clip"], means)
    rows = [
        [name, _number(row["reliability"]), _number(row["alpha"]), row["n_ranked"]]
        for name, row in zip(names, summary.metric_table(), strict=True)
    ]
    table("Reliability of the metrics", ["metric", "reliability", "alpha", "clips"], rows)
    say(
        "Near 1 a metric ranks the methods alike on every clip; near 0 its ranks are those of"
        "\nchance, and its means say little. Computed over the clips on which methods differ."
    )


def _with_interval(summary: EvaluationSummary, k: int, m: int) -> str:
    mean, low, high = (float(array[k, m]) for array in (summary.mean, summary.low, summary.high))
    if np.isnan(mean):
        return "-"
    return f"{mean:.2f}" if np.isnan(low) else f"{mean:.2f} [{low:.2f},{high:.2f}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
