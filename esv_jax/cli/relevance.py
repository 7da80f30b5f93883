"""`esv-jax relevance`: where in the pixels of a clip a 3D network's prediction comes from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from esv_jax import data, models, plots, results
from esv_jax import relevance as rules
from esv_jax.checks import expect
from esv_jax.cli.clip_inputs import (
    VideoClip,
    exit_code,
    free_videos,
    load_clip_network,
    read_clip,
    try_each,
)
from esv_jax.cli.outputs import file_name, settings_of
from esv_jax.cli.printing import progress, say, signed, table
from esv_jax.data.classes import class_index
from esv_jax.extras import require
from esv_jax.files import atomic_path

_SHOWN = 20  # rows of the printed table
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
Parts = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Found:
    """Relevance of one video by name, (t, h, w, 3), with the class it explains."""

    index: np.ndarray
    parts: Parts
    logits: np.ndarray
    c: int

    @property
    def probability(self) -> float:
        """Probability of the class, the softmax of the logits."""
        return float(jax.nn.softmax(self.logits)[self.c])


@dataclasses.dataclass(frozen=True)
class _Compiled:
    """The two programs that all videos share."""

    logits: Callable[..., jax.Array]
    parts: Callable[..., tuple[jax.Array, ...]]


@dataclasses.dataclass(frozen=True)
class Relevance:
    """Show where in the pixels of a clip a 3D network's prediction comes from.

    lrp: layer-wise relevance propagation. selective: also what of it changes over time, which is
    motion. discriminative: what each frame has by itself (spatial), and what the clip has beyond
    (temporal).
    Example: esv-jax relevance clip.mp4 --method selective
    """

    data: tyro.conf.Positional[Path]
    """A video, a folder of them, or a list (.txt, .csv)."""
    method: Literal["lrp", "selective", "discriminative"] = "lrp"
    """Method to apply."""
    model: Path | None = None
    """A clip model (.safetensors), or PyTorch weights of R(2+1)D-18 or C3D (.pth); default the
    small one that comes with the package."""
    classes: Path | None = None
    """CSV of class names (name,id), in place of the model's."""
    target: Annotated[str, tyro.conf.arg(name="class")] = "pred"
    """Class to explain: pred, a name or an id."""
    composite: Composite = "epsilon_plus"
    """Which rules the layers have; the first has the z-box rule, by the bounds of pixels."""
    sigma: float | None = None
    """Threshold of selective, in standard deviations of the change; default 2."""
    edge: Literal["replicate", "zero"] | None = None
    """Of selective: what lies beyond the clip; zero counts its first and last frame as changes.
    Default replicate."""
    scale: Literal["score", "clip"] | None = None
    """Of discriminative: whether a still frame shares out its own score or that of the clip;
    default score."""
    out: Path = Path("results")
    """Folder for a .nc, a strip and an overlay of each video, and relevance.csv."""
    overlay: Literal["mp4", "gif", "none"] = "mp4"
    """Format of the overlay: the frames beside their relevance."""
    limit: int | None = None
    """Explain the first N videos."""
    overwrite: bool = False
    """Replace results of these videos in the output folder."""

    def run(self) -> int:
        """Explain, save, draw, print."""
        for method, names in _OPTIONS.items():
            for name in names:
                fits = method == self.method or getattr(self, name) is None
                expect(fits, name, f"none beside {self.method}", getattr(self, name))
        if self.sigma is not None:
            expect(self.sigma >= 0, "sigma", "a number >= 0", self.sigma)
        model = load_clip_network(self.model, self.classes)
        if self.target != "pred":
            class_index(self.target, model.class_names)
        videos = free_videos(self.data, self.out, limit=self.limit, overwrite=self.overwrite)
        compiled = _compiled(self, model)
        settings = settings_of("relevance", self, models.clip_model_digest(model))
        rows: list[tuple[Any, ...]] = []
        frames: list[Any] = []

        def explain(uid: str, path: Path) -> None:
            found = self._explained(model, compiled, read_clip(model, uid, path), settings)
            rows.append(self._row(uid, found, model))
            frames.append(_by_frame(uid, found))

        try:
            with progress(len(videos), "Explaining", "video") as bar:
                said = try_each(videos, explain, lambda: bar.update(1))
        finally:
            self._report(rows, frames)
        return exit_code(said)

    def _explained(
        self,
        model: models.ClipModel,
        compiled: _Compiled,
        seen: VideoClip,
        settings: dict[str, Any],
    ) -> Found:
        """Relevance of one video, written and drawn."""
        logits = np.asarray(compiled.logits(seen.clip))
        expect(bool(np.isfinite(logits).all()), seen.path.name, "finite logits", logits)
        chosen = self.target
        c = int(logits.argmax()) if chosen == "pred" else class_index(chosen, model.class_names)
        volumes = compiled.parts(seen.clip, jnp.asarray(c))
        parts = dict(zip(_PARTS[self.method], map(np.asarray, volumes), strict=True))
        found = Found(seen.index, parts, logits, c)
        name = model.class_names[c]
        place = self.out / file_name(seen.uid)
        results.save_volumes(
            place.with_name(f"{place.name}.nc"),
            parts,
            frame_index=seen.index,
            settings=settings,
            overwrite=self.overwrite,
            uid=seen.uid,
            class_name=name,
            score=float(logits[c]),
        )
        self._draw(place, seen, found, name)
        return found

    def _draw(self, place: Path, seen: VideoClip, found: Found, name: str) -> None:
        frames, video = seen.pictures, seen.path.name
        lines = [
            f"{name}: logit {found.logits[found.c]:.2f}, probability {found.probability:.3f}",
            ", ".join(f"{part} {signed(v.sum())}" for part, v in found.parts.items()),
        ]
        strip = place.with_name(f"{place.name}_strip.png")
        labels = [str(i) for i in found.index]
        figure = plots.plot_relevance_strip(
            frames, found.parts, frame_labels=labels, title=video, lines=lines
        )
        plots.save_figure(figure, strip)
        if self.overlay == "none":
            return
        pictures = plots.render_relevance(
            frames, found.parts, index=found.index, title=video, lines=lines
        )
        file = place.with_name(f"{place.name}_overlay.{self.overlay}")
        data.write_video(file, pictures, seen.pace)

    def _row(self, uid: str, found: Found, model: models.ClipModel) -> tuple[Any, ...]:
        """One line of the printed table."""
        volumes = list(found.parts.values())
        sizes = [np.abs(volume).sum() for volume in volumes]
        whole = sum(sizes) if self.method == "discriminative" else sizes[0]
        share = sizes[-1] / whole if whole > 0 else 0.0
        top = int(np.abs(volumes[-1].sum((1, 2, 3))).argmax())
        predicted = int(found.logits.argmax())
        return (
            uid,
            model.class_names[found.c],
            model.class_names[predicted],
            f"{found.probability:.3f}",
            *(signed(volume.sum()) for volume in volumes),
            *([] if self.method == "lrp" else [f"{100 * share:.1f} %"]),
            f"{found.index[top]}",
        )

    def _report(self, rows: list[tuple[Any, ...]], frames: list[Any]) -> None:
        """The table on screen, the long table as CSV."""
        if not rows:
            return
        pandas = require("pandas", "files")
        with atomic_path(self.out / "relevance.csv") as path:
            pandas.concat(frames).to_csv(path, index=False)
        names = _PARTS[self.method]
        share = [] if self.method == "lrp" else [f"share of {names[-1]}"]
        columns = ["uid", "class", "predicted", "probability", *names, *share, "top frame"]
        title = f"Relevance ({self.method}), in logits"
        if len(rows) > _SHOWN:
            title += f" (first {_SHOWN} of {len(rows)}; all in relevance.csv)"
        table(title, columns, rows[:_SHOWN])
        say(f"Relevance of {len(rows)} videos in {self.out}")


def _compiled(settings: Relevance, model: models.ClipModel) -> _Compiled:
    composite = rules.preset(settings.composite, *model.bounds)

    def parts(clip: jax.Array, c: jax.Array) -> tuple[jax.Array, ...]:
        if settings.method == "discriminative":
            found = rules.discriminative(
                model.logits,
                clip,
                c,
                composite=composite,
                scale=settings.scale or "score",
            )
            return found.spatial, found.temporal
        whole = rules.lrp(model.logits, clip, c, composite=composite)
        if settings.method == "lrp":
            return (whole,)
        sigma = 2.0 if settings.sigma is None else settings.sigma
        return whole, rules.selective(whole, sigma, settings.edge or "replicate")

    return _Compiled(jax.jit(model.logits), jax.jit(parts))


def _by_frame(uid: str, found: Found) -> Any:
    """Sums of each frame, for the long table."""
    pandas = require("pandas", "files")
    sums = {name: v.sum((1, 2, 3), dtype=np.float64) for name, v in found.parts.items()}
    return pandas.DataFrame({"uid": uid, "frame": found.index, **sums})
