"""`esv-jax perturb`: the smallest parts of a clip that keep a 3D network's prediction."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from esv_jax import models, perturbation
from esv_jax.blur import Edge
from esv_jax.checks import expect
from esv_jax.cli.clip_inputs import (
    VideoClip,
    exit_code,
    free_videos,
    load_clip_network,
    read_clip,
    try_each,
)
from esv_jax.cli.mask_outputs import FoundMasks, draw_masks, rows_of, save_masks
from esv_jax.cli.outputs import file_name, settings_of
from esv_jax.cli.printing import progress, say, table
from esv_jax.data.classes import class_index
from esv_jax.explanations import video_key
from esv_jax.extras import require
from esv_jax.files import atomic_path
from esv_jax.maps.programs import probabilities
from esv_jax.perturbation import Core, Masking
from esv_jax.perturbation.objective import Mode
from esv_jax.perturbation.pyramids import Perturbation
from esv_jax.plots.perturbation import WANTED

_SHOWN = 20  # rows of the printed table


@dataclasses.dataclass(frozen=True)
class Perturb:
    """Find the smallest parts of a clip that keep a prediction, or destroy it.

    preserve: with the mask alone the prediction stays. delete: without the mask it is gone.
    dual: both. One mask for each area, found by gradient descent (STEP, Li et al. 2021).
    Example: esv-jax perturb clip.mp4 --areas 0.05 0.1 0.2 --mode preserve
    """

    data: tyro.conf.Positional[Path]
    """A video, a folder of them, or a list (.txt, .csv)."""
    areas: tuple[float, ...] = (0.05, 0.1, 0.2)
    """Shares of the clip's volume that masks have, each in (0, 1)."""
    mode: Mode = "preserve"
    """Objective of the masks: preserve or delete the prediction, or both."""
    model: Path | None = None
    """A clip model (.safetensors), or PyTorch weights of R(2+1)D-18 or C3D (.pth); default the
    small one that comes with the package."""
    classes: Path | None = None
    """CSV of class names (name,id), in place of the model's."""
    target: Annotated[str, tyro.conf.arg(name="class")] = "pred"
    """Class to explain: pred, a name or an id."""
    iterations: int = 300
    """Of the descent; the paper has 800. 300 with the default model take less than a minute of
    CPU time."""
    patience: int | None = None
    """Stop a mask that stood still for so many iterations; default never."""
    core: Literal["ellipsoid", "cylinder", "none"] = "none"
    """Shape of the regions that masks are to be made of, for smoother ones."""
    core_frames: int = Core().frames
    """Frames of the clip that a core lasts."""
    core_size: int | None = Core().size
    """Height and width of a core in pixels; default by the size of frames."""
    difference: bool = False
    """Have masks change little from frame to frame."""
    per_frame: bool = False
    """Give every frame the area, rather than the clip."""
    perturbation: Perturbation = Masking().perturbation
    """Content that replaces masked regions: a blurred clip, or zeros."""
    edge: Edge = Masking().edge
    """Padding of the blur at the border: zeros, or the nearest pixels."""
    mask_step: int | None = Masking().step
    """Pixels between the cells of a mask; default by the size of frames."""
    dropout: float | None = None
    """Share of frames in which masks are ignored, drawn anew in each iteration, so that they hold
    all that counts; default as perturbation.step has it."""
    seed: int = 0
    """Seed of what is drawn; draws depend on it and on the uid alone."""
    out: Path = Path("results")
    """Folder for a .nc, pictures, videos and the trace of each video, and perturbation.csv."""
    overlay: Literal["mp4", "gif", "none"] = "mp4"
    """Format of two videos: frames beside their masks, and the perturbed clips of all areas."""
    limit: int | None = None
    """Explain the first N videos."""
    overwrite: bool = False
    """Replace results of these videos in the output folder."""

    def run(self) -> int:
        """Explain, save, draw, print."""
        options = self._options()
        model = load_clip_network(self.model, self.classes)
        if self.target != "pred":
            class_index(self.target, model.class_names)
        videos = free_videos(self.data, self.out, limit=self.limit, overwrite=self.overwrite)
        fn = probabilities(model)
        settings = settings_of("perturb", self, models.clip_model_digest(model))
        rows: list[dict[str, Any]] = []
        warned: list[str] = []

        def explain(uid: str, path: Path) -> None:
            found = self._found(model, fn, read_clip(model, uid, path), options)
            place = self.out / file_name(uid)
            save_masks(found, place, settings, overwrite=self.overwrite)
            draw_masks(found, place, self.overlay)
            rows.extend(rows_of(found))
            warned.extend(f"{path.name}, {text}" for text in found.result.warnings)

        try:
            said = try_each(videos, explain)
        finally:
            self._report(rows)
        return exit_code([*said, *warned])

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
        core = None
        if self.core != "none":
            core = Core(self.core, self.core_frames, self.core_size)
        masking = Masking(perturbation=self.perturbation, edge=self.edge, step=self.mask_step)
        options: dict[str, Any] = {
            "areas": self.areas,
            "mode": self.mode,
            "iterations": self.iterations,
            "patience": self.patience,
            "core": core,
            "difference": self.difference,
            "per_frame": self.per_frame,
            "masking": masking,
        }
        if self.dropout is not None:
            expect(0 <= self.dropout < 1, "dropout", "a share in [0, 1)", self.dropout)
            options["dropout"] = self.dropout
        return options

    def _found(
        self,
        model: models.ClipModel,
        fn: Callable[[jax.Array], jax.Array],
        seen: VideoClip,
        options: dict[str, Any],
    ) -> FoundMasks:
        """Masks of one video, with a progress bar of their iterations."""
        chosen = self.target
        c = int(fn(seen.clip[None])[0].argmax())
        c = c if chosen == "pred" else class_index(chosen, model.class_names)
        key = video_key(jax.random.key(self.seed), seen.uid)
        with progress(self.iterations, seen.uid, "it") as bar:

            def watch(done: int, energy: Any) -> None:
                total, wanted = np.asarray(energy.total)[0], np.exp(-np.asarray(energy.reward)[0])
                values = "/".join(f"{value:.2f}" for value in wanted)
                spent = "/".join(f"{value:.3g}" for value in total)
                bar.set_postfix_str(f"energy {spent}, {WANTED[self.mode]} {values}", refresh=False)
                bar.update(done - bar.n)

            try:
                result = perturbation.step(fn, seen.clip, c, key=key, on_progress=watch, **options)
            except ValueError as error:
                bar.leave = False
                raise ValueError(f"{seen.path.name}, {error}") from None
        m = options["masking"]
        levels = perturbation.pyramid(seen.clip, m.perturbation, m.levels, m.max_blur, m.edge)
        masks = result.masks if self.mode != "delete" else 1 - result.masks
        perturbed = jnp.stack([perturbation.perturb(levels, mask) for mask in masks])
        return FoundMasks(seen, model.class_names[c], result, model.pictures(perturbed))

    def _report(self, rows: list[dict[str, Any]]) -> None:
        """The table as CSV, and its first rows on screen."""
        if not rows:
            return
        pandas = require("pandas", "files")
        with atomic_path(self.out / "perturbation.csv") as path:
            pandas.DataFrame(rows).to_csv(path, index=False)
        kept = "left" if self.mode == "delete" else "kept"
        columns = ["uid", "class", "area", "probability", kept, "mask > 0.5", "top frame"]
        title = f"Masks ({self.mode})"
        if len(rows) > _SHOWN:
            title += f" (first {_SHOWN} of {len(rows)}; all in perturbation.csv)"
        cells = [
            (
                row["uid"],
                row["class"],
                row["area"],
                f"{row['probability_clean']:.3f}",
                f"{row['probability']:.3f}",
                f"{100 * row['share_above_half']:.1f} %",
                row["top_frame"],
            )
            for row in rows[:_SHOWN]
        ]
        table(title, columns, cells)
        say(f"Masks of {len(rows) // len(self.areas)} videos in {self.out}")
