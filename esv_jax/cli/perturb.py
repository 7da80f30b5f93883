"""`esv-jax perturb`: the smallest parts of a clip that keep a 3D network's prediction."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from esv_jax import data, perturbation, plots
from esv_jax.batches import video_key
from esv_jax.blur import Edge
from esv_jax.checks import expect
from esv_jax.cli.clips import Row, VideoClip, VideoOptions, explain_each, read_clip
from esv_jax.cli.options import class_of, settings_of
from esv_jax.cli.printing import exit_code, progress, say
from esv_jax.extras import require
from esv_jax.files import JSONObject, atomic_path
from esv_jax.maps.networks import probabilities
from esv_jax.models.clip_model import ClipModel, clip_model_digest
from esv_jax.perturbation import Core, Masking
from esv_jax.perturbation.descent import Mode
from esv_jax.perturbation.masks import Perturbation
from esv_jax.perturbation.step import StepResult
from esv_jax.plots.curves import WANTED
from esv_jax.plots.perturbation import middle
from esv_jax.results.volumes import save_volumes

_MEANING = "mask of a pixel, in 0..1; of the part saliency, the sum of all masks"


@dataclasses.dataclass(frozen=True, eq=False)
class _Found:
    """Masks of one video, of the class `name`.

    Attributes:
      perturbed: final network inputs, (A, t, s, s, 3) uint8 RGB: the clip under each mask, or
        without it if the mode is "delete".
    """

    video: VideoClip
    name: str
    result: StepResult
    perturbed: np.ndarray

    @property
    def masks(self) -> dict[str, np.ndarray]:
        """Masks (t, s, s) by "area 0.1" and so on."""
        names = [f"area {area}" for area in self.result.areas]
        return dict(zip(names, np.asarray(self.result.masks), strict=True))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Perturb(VideoOptions):
    """Find the smallest parts of a clip that keep a prediction, or destroy it.

    preserve: with the mask alone the prediction stays. delete: without the mask it is gone.
    dual: both. One mask for each area, found by gradient descent (STEP, Li et al. 2021). Writes for
    each video a .nc, pictures, videos (frames beside their masks, and the perturbed clips of all
    areas) and the trace of the descent; perturbation.csv for all.
    Example: esv-jax perturb clip.mp4 --areas 0.05 0.1 0.2 --mode preserve
    """

    areas: tuple[float, ...] = (0.05, 0.1, 0.2)
    """Shares of the clip's volume that the masks cover, each in (0, 1)."""
    mode: Mode = "preserve"
    """Objective of the masks: preserve or delete the prediction, or both."""
    iterations: int = 300
    """Updates of the descent; the paper has 800. 300 with the default model take less than a minute
    of CPU time."""
    patience: int | None = None
    """Stop a mask that has not moved for N iterations; default never."""
    core: Literal["ellipsoid", "cylinder", "none"] = "none"
    """Shape of the regions that masks consist of, for smoother masks."""
    core_frames: int = Core().frames
    """Length of a core in frames of the clip."""
    core_size: int | None = Core().size
    """Height and width of a core in pixels; default by the size of frames."""
    difference: bool = False
    """Penalise changes of masks from frame to frame."""
    per_frame: bool = False
    """Apply the area to every frame, rather than to the clip."""
    perturbation: Perturbation = Masking().perturbation
    """Content that replaces masked regions: a blurred clip, or zeros."""
    edge: Edge = Masking().edge
    """Padding of the blur at the border: zeros, or the nearest pixels."""
    mask_step: int | None = Masking().step
    """Pixels between the cells of a mask; default by the size of frames."""
    dropout: float | None = None
    """Share of frames in which masks are ignored, drawn anew in each iteration, so that masks cover
    all the evidence; default that of perturbation.step."""
    seed: int = 0
    """Seed of random draws, which depend on it and on the uid alone."""

    def run(self) -> int:
        """Explain, save, draw, print."""
        options = self._options()
        model = self.load_network()
        videos = self.find_videos()
        fn = probabilities(model)
        settings = settings_of("perturb", self, clip_model_digest(model))
        rows: list[Row] = []
        warnings: list[str] = []

        def explain(uid: str, path: Path) -> None:
            found = self._found(model, fn, read_clip(model, uid, path), options)
            self._save(found, settings)
            self._draw(found)
            rows.extend(_rows(found))
            warnings.extend(f"{path.name}, {text}" for text in found.result.warnings)

        try:
            errors = explain_each(videos, explain)
        finally:
            self._report(rows)
        return exit_code([*errors, *warnings])

    def _options(self) -> dict[str, Any]:
        """Return the options of `step`, checked before any work is done."""
        expect(len(self.areas) > 0, "areas", "at least one", "none")
        for area in self.areas:
            expect(0 < area < 1, "areas", "shares of the volume in (0, 1)", area)
        distinct = len(set(self.areas)) == len(self.areas)
        expect(distinct, "areas", "each once", " ".join(map(str, self.areas)))
        for name in ("iterations", "patience", "mask_step"):
            value = getattr(self, name)
            expect(value is None or value >= 1, name.replace("_", "-"), "a number >= 1", value)
        names = ("areas", "mode", "iterations", "patience", "difference", "per_frame")
        options: dict[str, Any] = {name: getattr(self, name) for name in names}
        core = None if self.core == "none" else Core(self.core, self.core_frames, self.core_size)
        options["core"] = core
        options["masking"] = Masking(
            perturbation=self.perturbation, edge=self.edge, step=self.mask_step
        )
        if self.dropout is not None:
            expect(0 <= self.dropout < 1, "dropout", "a share in [0, 1)", self.dropout)
            options["dropout"] = self.dropout
        return options

    def _found(
        self,
        model: ClipModel,
        fn: Callable[[jax.Array], jax.Array],
        video: VideoClip,
        options: dict[str, Any],
    ) -> _Found:
        """Find the masks of one video, with a progress bar of the iterations."""
        c = class_of(self.target, np.asarray(fn(video.clip[None])[0]), model.class_names)
        key = video_key(jax.random.key(self.seed), video.uid)
        with progress(self.iterations, video.uid, "it") as bar:

            def show(done: int, energy: Any) -> None:
                total, wanted = np.asarray(energy.total)[0], np.exp(-np.asarray(energy.reward)[0])
                values = "/".join(f"{value:.2f}" for value in wanted)
                spent = "/".join(f"{value:.3g}" for value in total)
                bar.set_postfix_str(f"energy {spent}, {WANTED[self.mode]} {values}", refresh=False)
                bar.update(done - bar.n)

            try:
                result = perturbation.step(fn, video.clip, c, key=key, on_progress=show, **options)
            except ValueError as error:
                bar.leave = False
                raise ValueError(f"{video.path.name}, {error}") from None
        m = options["masking"]
        levels = perturbation.pyramid(video.clip, m.perturbation, m.levels, m.max_blur, m.edge)
        masks = result.masks if self.mode != "delete" else 1 - result.masks
        perturbed = jnp.stack([perturbation.perturb(levels, mask) for mask in masks])
        return _Found(video, model.class_names[c], result, model.pictures(perturbed))

    def _save(self, found: _Found, settings: JSONObject) -> None:
        """Write saliency and masks as .nc, and the energies by iteration as _trace.csv."""
        r, video = found.result, found.video
        save_volumes(
            self.path_of(video.uid, ".nc"),
            {"saliency": r.saliency, **found.masks},
            frame_index=video.index,
            settings=settings,
            meaning=_MEANING,
            overwrite=self.overwrite,
            title="Masks of a clip",
            uid=video.uid,
            class_name=found.name,
            score=float(r.clean_probability),
            mode=r.mode,
            areas=list(r.areas),
            probabilities=np.asarray(r.probability, np.float64).tolist(),
            energies=np.asarray(r.energy[:, -1], np.float64).tolist(),
            stopped_at=np.asarray(r.stopped_at).tolist(),
            failed_at=np.asarray(r.failed_at).tolist(),
        )
        iterations = r.energy.shape[1]
        columns = {
            "iteration": np.tile(np.arange(iterations), len(r.areas)),
            "area": np.repeat(r.areas, iterations),
            "energy": np.asarray(r.energy).ravel(),
            "reward": np.asarray(r.reward).ravel(),
        }
        with atomic_path(self.path_of(video.uid, "_trace.csv")) as path:
            require("pandas", "files").DataFrame(columns).to_csv(path, index=False)

    def _draw(self, found: _Found) -> None:
        """Write _strip.png, _trace.png, and the videos _overlay and _perturbed."""
        r, video, masks = found.result, found.video, found.masks
        title = video.path.name
        position = "without" if r.mode == "delete" else "under"
        clean = f"{found.name}: probability {float(r.clean_probability):.3f}"
        each = dict(zip(masks, (f"{p:.3f}" for p in np.asarray(r.probability)), strict=True))
        strip = plots.perturbation.plot_perturbation_strip(
            video.pictures,
            masks,
            frame_labels=[str(i) for i in video.index],
            title=title,
            lines=[
                clean,
                f"{position} each mask: {' / '.join(each.values())}",
                f"{r.mode}, {r.energy.shape[1]} iterations",
            ],
        )
        plots.save_figure(strip, self.path_of(video.uid, "_strip.png"))
        curves = plots.curves.plot_descent(
            r.energy, r.reward, list(masks), mode=r.mode, title=f"{title}: {found.name}"
        )
        plots.save_figure(curves, self.path_of(video.uid, "_trace.png"))
        if self.overlay == "none":
            return
        shown = middle(list(masks))
        beside = plots.perturbation.render_perturbation(
            video.pictures,
            masks,
            found.perturbed[list(masks).index(shown)],
            shown=shown,
            index=video.index,
            title=title,
            lines=[clean, f"{position} the mask of {shown}: {each[shown]}"],
        )
        alone = plots.video.render_clips([*found.perturbed])
        for name, pictures in (("overlay", beside), ("perturbed", alone)):
            data.write_video(
                self.path_of(video.uid, f"_{name}.{self.overlay}"), pictures, video.pace
            )

    def _report(self, rows: list[Row]) -> None:
        """Write the table as CSV and print its first rows."""
        if not rows:
            return
        columns = ["uid", "class", "area", "probability"]
        columns += ["left" if self.mode == "delete" else "kept", "mask > 0.5", "top frame"]
        cells: list[list[object]] = [
            [
                *(row[name] for name in ("uid", "class", "area")),
                *(f"{row[name]:.3f}" for name in ("probability_clean", "probability")),
                f"{100 * float(row['share_above_half']):.1f} %",
                row["top_frame"],
            ]
            for row in rows
        ]
        frame = require("pandas", "files").DataFrame(rows)
        self.write_table("perturbation", f"Masks ({self.mode})", [frame], columns, cells)
        say(f"Masks of {len(rows) // len(self.areas)} videos in {self.out}")


def _rows(found: _Found) -> list[Row]:
    """Return a row of the table for each area."""
    r, video = found.result, found.video
    return [
        {
            "uid": video.uid,
            "class": found.name,
            "mode": r.mode,
            "area": area,
            "probability_clean": float(r.clean_probability),
            "probability": float(r.probability[k]),
            "share_above_half": float((mask > 0.5).mean()),
            "top_frame": int(video.index[mask.sum((1, 2)).argmax()]),
            "energy": float(r.energy[k, -1]),
            "stopped_at": int(r.stopped_at[k]),
            "failed_at": int(r.failed_at[k]),
        }
        for k, (area, mask) in enumerate(zip(r.areas, found.masks.values(), strict=True))
    ]
