"""`esv-jax evaluate`: which attribution method is right most often, and how far to trust that."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
import tyro

from esv_jax import __version__, data, maps, models
from esv_jax.checks import expect, expect_int, message
from esv_jax.cli.clip_inputs import exit_code, load_clip_network, read_clip, try_each
from esv_jax.cli.evaluation_report import print_summary, write_csv, write_json
from esv_jax.cli.outputs import settings_of
from esv_jax.cli.printing import progress, say
from esv_jax.cli.score_file import ScoreFile, open_scores
from esv_jax.data.classes import class_index
from esv_jax.data.video_files import find_videos
from esv_jax.explanations import video_key
from esv_jax.files import make_folder
from esv_jax.maps.programs import probabilities

SYNTHETIC = "synthetic"
METHODS = ("lrp", "selective", "gradient_x_input", "grad_cam", "integrated_gradients", "random")
METRICS = ("insertion", "deletion")
EVIDENCE = ("pointing", "mass", "coverage", "temporal_grounding")
_HELD_OUT = 30000  # seed of clips that the network that comes with the package has not seen
_FRAMES = 32  # of a synthetic clip; a network sees some of them
_FREE = ("data", "model", "classes", "n_clips", "limit", "out", "overwrite")
"""Options that scores do not depend on, once clip, class and weights are the same."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Clip:
    """Input of the evaluation: a prepared clip, its class if known, its evidence."""

    clip: jax.Array
    label: str | None = None
    evidence: np.ndarray | None = None
    evidence_frames: np.ndarray | None = None


_Clips = Mapping[str, Callable[[models.ClipModel], _Clip]]


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Compare attribution methods by how well they find what predictions rest on.

    Metrics: insertion and deletion of voxels; of synthetic clips, where the evidence is known, also
    whether maps point at it. Each comes with its reliability. Scores are kept as they come: the
    same command again goes on where it was stopped.
    Example: esv-jax evaluate clips/ --methods lrp step random --iterations 200
    """

    data: tyro.conf.Positional[str] = SYNTHETIC
    """Videos: a folder of them, a list (.txt, .csv) or one; or the word synthetic, for clips with
    known evidence."""
    methods: tuple[str, ...] = METHODS
    """Which: lrp, selective, discriminative, discriminative_spatial, grad_cam, gradient_x_input,
    integrated_gradients, smooth_grad, occlusion, esv_x_spatial, step, step_no_core, random; or all,
    which takes much longer."""
    metrics: tuple[str, ...] = ()
    """Which: insertion, deletion, insertion_minus_deletion, insertion_least_first,
    deletion_least_first; of synthetic clips also pointing, mass, coverage, temporal_grounding; or
    all. Default: the first two, and where they apply the last four."""
    model: Path | None = None
    """A clip model (.safetensors), or PyTorch weights of R(2+1)D-18 or C3D (.pth); default the
    small one that comes with the package."""
    classes: Path | None = None
    """CSV of class names (name,id), in place of the model's."""
    target: Annotated[str, tyro.conf.arg(name="class")] = "pred"
    """Class to explain: pred, a name or an id; of synthetic clips also label, the true one."""
    n_clips: int = 8
    """Number of synthetic clips."""
    limit: int | None = None
    """Evaluate on the first N clips."""
    steps: int = 16
    """Number of steps of the insertion and deletion curves."""
    remove: Literal["blur", "fade"] = "blur"
    """Content of removed voxels in insertion and deletion."""
    units: Literal["pixels", "patches", "supervoxels"] = "pixels"
    """Of insertion and deletion: what is switched as one; 8 x 8 patches in a frame, or some 200
    supervoxels in a clip."""
    iterations: int = 800
    """Number of updates of the masks of step."""
    seed: int = 0
    """Seed of random methods and of the intervals."""
    out: Path = Path("results")
    """Folder for evaluation.csv, evaluation.json and the scores of each clip."""
    overwrite: bool = False
    """Begin anew, whatever the output folder holds."""

    def run(self) -> int:
        """Judge, save, print."""
        expect(self.limit is None or self.limit >= 1, "limit", "a number >= 1", self.limit)
        model = load_clip_network(self.model, self.classes)
        expect_int("seed", self.seed, 0)
        self._expect_class(model)
        judge = maps.make_judge(
            model,
            methods=tuple(maps.METHODS) if self.methods == ("all",) else self.methods,
            metrics=self._metrics(),
            settings=maps.MapSettings(iterations=self.iterations),
            steps=self.steps,
            remove=self.remove,
            units=self.units,
        )
        clips = dict([*self._clips(model).items()][: self.limit])
        make_folder(self.out)
        settings = settings_of("evaluate", self, models.clip_model_digest(model))
        settings |= {"methods": judge.methods, "metrics": judge.metrics}
        settings["esv_jax_version"] = __version__
        kept = {name: value for name, value in settings.items() if name not in _FREE}
        file = open_scores(self.out / "evaluation_clips.jsonl", kept, overwrite=self.overwrite)
        found: dict[str, maps.ClipScores] = {}

        def one(uid: str, read: Callable[[models.ClipModel], _Clip]) -> None:
            found[uid] = self._judged(model, judge, file, uid, read(model))

        try:
            with progress(len(clips), "Judging", "clip") as bar:
                said = try_each(clips, one, lambda: bar.update(1))
        finally:
            if found:
                self._report(judge, found, settings)
        return exit_code(said)

    @property
    def _synthetic(self) -> bool:
        return self.data == SYNTHETIC

    def _expect_class(self, model: models.ClipModel) -> None:
        if self.target == "label":
            expected = "pred, a name or an id, of videos"
            expect(self._synthetic, "class", expected, "'label'", "Labels of videos are not known.")
        elif self.target != "pred":
            class_index(self.target, model.class_names)

    def _metrics(self) -> tuple[str, ...]:
        """The chosen metrics; those that need evidence only where it is available."""
        applicable = [
            name
            for name, metric in maps.METRICS.items()
            if self._synthetic or not metric.takes.startswith("evidence")
        ]
        if self.metrics == ("all",):
            return tuple(applicable)
        for name in self.metrics:
            if name in maps.METRICS and name not in applicable:
                expected = f"of videos, {', '.join(applicable)}"
                way_out = "Where the evidence lies is known of synthetic clips alone."
                raise ValueError(message("metrics", expected, repr(name), way_out))
        return self.metrics or (METRICS + EVIDENCE if self._synthetic else METRICS)

    def _clips(self, model: models.ClipModel) -> _Clips:
        if self._synthetic:
            return _synthetic_clips(expect_int("n_clips", self.n_clips, 1), model.n_frames)
        videos = find_videos([Path(self.data)])
        return {uid: _reader(uid, path) for uid, path in videos.items()}

    def _judged(
        self, model: models.ClipModel, judge: maps.Judge, file: ScoreFile, uid: str, seen: _Clip
    ) -> maps.ClipScores:
        """Scores of a clip: those in the file, if of the same clip and class, or new ones."""
        scores = np.asarray(probabilities(model)(seen.clip[None]))[0]
        expect(bool(np.isfinite(scores).all()), uid, "finite logits", scores)
        chosen = seen.label if self.target == "label" else self.target
        is_pred = chosen == "pred" or chosen is None
        c = int(scores.argmax()) if is_pred else class_index(str(chosen), model.class_names)
        mark = f"{zlib.crc32(np.asarray(seen.clip).tobytes()):08x}-{c}"
        known = file.find(uid, mark)
        if known is not None:
            return known
        found = judge(
            seen.clip,
            c,
            key=video_key(jax.random.key(self.seed), uid),
            evidence=seen.evidence,
            evidence_frames=seen.evidence_frames,
        )
        file.add(uid, mark, found)
        return found

    def _report(
        self, judge: maps.Judge, found: Mapping[str, maps.ClipScores], settings: dict[str, Any]
    ) -> None:
        """Two tables on screen; the long table as CSV, all of it as JSON."""
        evaluation = maps.gathered(judge.methods, judge.metrics, [*found.values()], [*found])
        summary = evaluation.summary(key=jax.random.key(self.seed))
        write_csv(self.out / "evaluation.csv", tuple(found), evaluation)
        write_json(self.out / "evaluation.json", evaluation, summary, settings)
        print_summary(summary, len(found))
        n = len(evaluation.warnings)
        if n:
            say(f"{n} maps had no scores; the first: {evaluation.warnings[0]}")
        say(f"Scores of {len(found)} clips in {self.out}")


def _synthetic_clips(n: int, n_frames: int) -> _Clips:
    """Clips that no network of the package was trained on, as far as rendered frames go."""
    at = data.segment_centres(_FRAMES, n_frames)
    made = data.synthetic_videos(n, seed=_HELD_OUT, n_frames=_FRAMES, frames=at)

    def reader(i: int) -> Callable[[models.ClipModel], _Clip]:
        def read(model: models.ClipModel) -> _Clip:
            mask = np.repeat(made.evidence_mask[i][..., None], 3, -1).astype(np.uint8) * 255
            return _Clip(
                model.prepare(made.clips[i]),
                made.class_names[made.labels[i]],
                model.shown(mask)[..., 0] > 127,
                made.evidence_frames[i],
            )

        return read

    return {uid: reader(i) for i, uid in enumerate(made.uids)}


def _reader(uid: str, path: Path) -> Callable[[models.ClipModel], _Clip]:
    return lambda model: _Clip(read_clip(model, uid, path).clip)
