"""`esv-jax relevance`: the pixels of a clip that a 3D network's prediction rests on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from esv_jax import data, plots
from esv_jax import relevance as rules
from esv_jax.checks import expect
from esv_jax.cli.clips import VideoClip, VideoOptions, explain_each, read_clip
from esv_jax.cli.options import class_of, settings_of
from esv_jax.cli.printing import exit_code, progress, say, signed
from esv_jax.extras import require
from esv_jax.models.clip_model import ClipModel, clip_model_digest
from esv_jax.results.volumes import save_volumes

if TYPE_CHECKING:
    import pandas

_PARTS = {
    "lrp": ("relevance",),
    "selective": ("relevance", "motion"),
    "discriminative": ("spatial", "temporal"),
}
_OPTIONS = {"selective": ("sigma", "edge"), "discriminative": ("scale",)}  # of one method alone

Composite = Literal[
    "epsilon",
    "zplus",
    "deep_taylor",
    "alpha2_beta1",
    "epsilon_plus",
    "epsilon_alpha2_beta1",
    "epsilon_gamma",
    "attnlrp",
    "cplrp",
]


class _Found(NamedTuple):
    """Relevance of one video: parts (t, h, w, 3) by name, of class `c` of `names`."""

    video: VideoClip
    parts: dict[str, np.ndarray]
    logits: np.ndarray
    c: int
    names: tuple[str, ...]

    @property
    def probability(self) -> float:
        """Softmax probability of the class."""
        return float(jax.nn.softmax(self.logits)[self.c])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Relevance(VideoOptions):
    """Show where in the pixels of a clip a 3D network's prediction comes from.

    lrp: layer-wise relevance propagation. selective: also the part of it that changes over time,
    which is motion. discriminative: the part due to single frames (spatial), and the rest
    (temporal). Writes for each video a .nc, a strip and an overlay; relevance.csv for all.
    Example: esv-jax relevance clip.mp4 --method selective
    """

    method: Literal["lrp", "selective", "discriminative"] = "lrp"
    """Method to apply."""
    composite: Composite = "epsilon_plus"
    """Rules of the layers; the first has the z-box rule, with the bounds of pixels."""
    sigma: float | None = None
    """Threshold of selective, in standard deviations of the change; default 2."""
    edge: Literal["replicate", "zero"] | None = None
    """Padding in time of selective; zero counts the first and last frame as changes. Default
    replicate."""
    scale: Literal["score", "clip"] | None = None
    """Score that discriminative distributes over a still frame: its own (score), or the clip's
    (clip); default score."""

    def run(self) -> int:
        """Explain, save, draw, print."""
        for method, names in _OPTIONS.items():
            for name in names:
                fits = method == self.method or getattr(self, name) is None
                expect(fits, name, f"none beside {self.method}", getattr(self, name))
        if self.sigma is not None:
            expect(self.sigma >= 0, "sigma", "a number >= 0", self.sigma)
        model = self.load_network()
        videos = self.find_videos()
        logits_of, parts_of = jax.jit(model.logits), jax.jit(self._parts_of(model))
        settings = settings_of("relevance", self, clip_model_digest(model))
        data_frame = require("pandas", "files").DataFrame
        rows: list[list[object]] = []
        frames: list[pandas.DataFrame] = []

        def explain(uid: str, path: Path) -> None:
            video = read_clip(model, uid, path)
            logits = np.asarray(logits_of(video.clip))
            expect(bool(np.isfinite(logits).all()), path.name, "finite logits", logits)
            c = class_of(self.target, logits, model.class_names)
            volumes = map(np.asarray, parts_of(video.clip, jnp.asarray(c)))
            parts = dict(zip(_PARTS[self.method], volumes, strict=True))
            found = _Found(video, parts, logits, c, model.class_names)
            save_volumes(
                self.path_of(uid, ".nc"),
                parts,
                frame_index=video.index,
                settings=settings,
                overwrite=self.overwrite,
                uid=uid,
                class_name=model.class_names[c],
                score=float(logits[c]),
            )
            self._draw(found)
            rows.append(self._row(found))
            sums = {name: v.sum((1, 2, 3), dtype=np.float64) for name, v in parts.items()}
            frames.append(data_frame({"uid": uid, "frame": video.index, **sums}))

        try:
            with progress(len(videos), "Explaining", "video") as bar:
                errors = explain_each(videos, explain, lambda: bar.update(1))
        finally:
            if rows:
                names = _PARTS[self.method]
                share = [] if self.method == "lrp" else [f"share of {names[-1]}"]
                columns = ["uid", "class", "predicted", "probability", *names, *share, "top frame"]
                title = f"Relevance ({self.method}), in logits"
                self.write_table("relevance", title, frames, columns, rows)
                say(f"Relevance of {len(rows)} videos in {self.out}")
        return exit_code(errors)

    def _parts_of(
        self, model: ClipModel
    ) -> Callable[[jax.Array, jax.Array], tuple[jax.Array, ...]]:
        """Return the function of a clip and a class to the parts of `_PARTS`."""
        composite = rules.preset(self.composite, *model.bounds)

        def parts(clip: jax.Array, c: jax.Array) -> tuple[jax.Array, ...]:
            if self.method == "discriminative":
                scale = self.scale or "score"
                found = rules.discriminative(
                    model.logits, clip, c, composite=composite, scale=scale
                )
                return found.spatial, found.temporal
            whole = rules.lrp(model.logits, clip, c, composite=composite)
            if self.method == "lrp":
                return (whole,)
            sigma = 2.0 if self.sigma is None else self.sigma
            return whole, rules.selective(whole, sigma, self.edge or "replicate")

        return parts

    def _draw(self, found: _Found) -> None:
        """Write _strip.png and the video _overlay."""
        video, title = found.video, found.video.path.name
        lines = [
            f"{found.names[found.c]}: logit {found.logits[found.c]:.2f}, "
            f"probability {found.probability:.3f}",
            ", ".join(f"{part} {signed(v.sum())}" for part, v in found.parts.items()),
        ]
        labels = [str(i) for i in video.index]
        figure = plots.plot_relevance_strip(
            video.pictures, found.parts, frame_labels=labels, title=title, lines=lines
        )
        plots.save_figure(figure, self.path_of(video.uid, "_strip.png"))
        if self.overlay == "none":
            return
        pictures = plots.relevance.render_relevance(
            video.pictures, found.parts, index=video.index, title=title, lines=lines
        )
        file = self.path_of(video.uid, f"_overlay.{self.overlay}")
        data.write_video(file, pictures, video.pace)

    def _row(self, found: _Found) -> list[object]:
        """Return one row of the printed table."""
        volumes = list(found.parts.values())
        sizes = [np.abs(volume).sum() for volume in volumes]
        whole = sum(sizes) if self.method == "discriminative" else sizes[0]
        share = sizes[-1] / whole if whole > 0 else 0.0
        top = int(np.abs(volumes[-1].sum((1, 2, 3))).argmax())
        return [
            found.video.uid,
            found.names[found.c],
            found.names[int(found.logits.argmax())],
            f"{found.probability:.3f}",
            *(signed(volume.sum()) for volume in volumes),
            *([] if self.method == "lrp" else [f"{100 * share:.1f} %"]),
            f"{found.video.index[top]}",
        ]
