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
from esv_jax.checkpoints import load_torch
from esv_jax.checks import expect
from esv_jax.cli.inputs import class_index
from esv_jax.cli.outputs import expect_free, file_name, settings_of
from esv_jax.cli.printing import BAD_INPUT, complain, progress, say, signed, table
from esv_jax.cli.videos import find_videos
from esv_jax.extras import require
from esv_jax.files import atomic_path, make_folder

_SHOWN = 20  # rows of the printed table
_PARTS = {
    "lrp": ("relevance",),
    "selective": ("relevance", "motion"),
    "discriminative": ("spatial", "temporal"),
}
_SLOWEST = 2.0  # frames per second of the overlay, at least

Composite = Literal[
    "epsilon",
    "zplus",
    "deep_taylor",
    "alpha2_beta1",
    "epsilon_plus",
    "epsilon_alpha2_beta1",
    "epsilon_gamma",
]
Parts = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Found:
    """What was found of one video: relevance by name, (t, h, w, 3), and what it is of."""

    index: np.ndarray
    parts: Parts
    logits: np.ndarray
    c: int

    @property
    def probability(self) -> float:
        """Of the class, by a softmax over the logits."""
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
    """What to show."""
    model: Path | None = None
    """A clip model (.safetensors), or PyTorch weights of R(2+1)D-18 or C3D (.pth); default the
    small one that comes with the package."""
    classes: Path | None = None
    """CSV of class names (name,id), in place of the model's."""
    target: Annotated[str, tyro.conf.arg(name="class")] = "pred"
    """Class to explain: pred, a name or an id."""
    composite: Composite = "epsilon_plus"
    """Which rules the layers have; the first has the z-box rule, by the bounds of pixels."""
    sigma: float = 2.0
    """Of selective: how many standard deviations a change has to exceed."""
    edge: Literal["replicate", "zero"] = "replicate"
    """Of selective: what lies beyond the clip; zero counts its first and last frame as changes."""
    scale: Literal["score", "clip"] = "score"
    """Of discriminative: whether a still frame shares out its own score or that of the clip."""
    out: Path = Path("results")
    """Folder for a .nc, a strip and an overlay of each video, and relevance.csv."""
    overlay: Literal["mp4", "gif", "none"] = "mp4"
    """Format of the overlay: the frames beside their relevance."""
    limit: int | None = None
    """Explain the first so many."""
    overwrite: bool = False
    """Replace results of these videos in the output folder."""

    def run(self) -> int:
        """Explain, save, draw, print."""
        expect(self.sigma >= 0, "sigma", "a number >= 0", self.sigma)
        expect(self.limit is None or self.limit >= 1, "limit", "a number >= 1", self.limit)
        model = self._model()
        if self.target != "pred":
            class_index(self.target, model.class_names)
        videos = dict([*find_videos([self.data]).items()][: self.limit])
        make_folder(self.out)
        for uid in videos:
            expect_free(self.out / f"{file_name(uid)}.nc", overwrite=self.overwrite)
        explain = _compiled(self, model)
        settings = settings_of("relevance", self, models.clip_model_digest(model))
        failed: dict[str, str] = {}
        rows, frames = [], []
        try:
            with progress(len(videos), "Explaining", "video") as bar:
                for uid, path in videos.items():
                    try:
                        found = self._explained(model, explain, uid, path, settings)
                    except (ValueError, OSError) as error:
                        failed[uid] = str(error)
                    else:
                        rows.append(self._row(uid, found, model))
                        frames.append(_by_frame(uid, found))
                    bar.update(1)
        finally:
            self._report(rows, frames)
        for text in failed.values():
            complain(text)
        return BAD_INPUT if failed else 0

    def _model(self) -> models.ClipModel:
        """The network that `model` names."""
        names = None if self.classes is None else tuple(data.read_classes(self.classes))
        if self.model is None:
            model = models.load_synthetic_clips()
            say(
                f"The network that comes with this package knows only its {len(model.class_names)}"
                " made-up classes. Name your own with --model."
            )
        elif self.model.suffix.lower() == ".safetensors":
            model = models.load_clip_model(self.model)
        else:
            state = load_torch(self.model)
            try:
                return models.clip_model_from_state_dict(state, names)
            except (ValueError, TypeError) as error:
                raise type(error)(f"{self.model}, {error}") from None
        return model if names is None else dataclasses.replace(model, class_names=names)

    def _explained(
        self,
        model: models.ClipModel,
        explain: _Compiled,
        uid: str,
        path: Path,
        settings: dict[str, Any],
    ) -> Found:
        """Relevance of one video, written and drawn."""
        info = data.probe_video(path)
        t = model.n_frames
        expect(info.frames >= t, path.name, f"at least {t} frames, for the network", info.frames)
        index = data.segment_centres(info.frames, t)
        frames = data.decode_frames(path, indices=index)
        clip = model.prepare(frames)
        logits = np.asarray(explain.logits(clip))
        expect(bool(np.isfinite(logits).all()), path.name, "finite logits", logits)
        chosen = self.target
        c = int(logits.argmax()) if chosen == "pred" else class_index(chosen, model.class_names)
        volumes = explain.parts(clip, jnp.asarray(c))
        parts = dict(zip(_PARTS[self.method], map(np.asarray, volumes), strict=True))
        found = Found(index, parts, logits, c)
        name = model.class_names[c]
        place = self.out / file_name(uid)
        results.save_volumes(
            place.with_name(f"{place.name}.nc"),
            parts,
            frame_index=index,
            settings=settings,
            overwrite=self.overwrite,
            uid=uid,
            class_name=name,
            score=float(logits[c]),
        )
        self._draw(place, path.name, model.shown(frames), found, name, info)
        return found

    def _draw(
        self, place: Path, video: str, frames: np.ndarray, found: Found, name: str, info: Any
    ) -> None:
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
        seconds = info.frames / info.fps if info.fps else len(frames) / _SLOWEST
        pace = max(_SLOWEST, len(frames) / seconds)
        data.write_video(place.with_name(f"{place.name}_overlay.{self.overlay}"), pictures, pace)

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
                scale=settings.scale,
            )
            return found.spatial, found.temporal
        whole = rules.lrp(model.logits, clip, c, composite=composite)
        if settings.method == "lrp":
            return (whole,)
        return whole, rules.selective(whole, settings.sigma, settings.edge)

    return _Compiled(jax.jit(model.logits), jax.jit(parts))


def _by_frame(uid: str, found: Found) -> Any:
    """Sums of each frame, for the long table."""
    pandas = require("pandas", "files")
    sums = {name: v.sum((1, 2, 3), dtype=np.float64) for name, v in found.parts.items()}
    return pandas.DataFrame({"uid": uid, "frame": found.index, **sums})
