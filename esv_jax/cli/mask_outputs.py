"""Outputs of `esv-jax perturb` per video: masks and their trace as files, pictures, videos."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import numpy as np

from esv_jax import data, plots, results
from esv_jax.cli.clip_inputs import VideoClip
from esv_jax.extras import require
from esv_jax.files import atomic_path
from esv_jax.perturbation import StepResult
from esv_jax.plots.perturbation import middle

_MEANING = "mask of a pixel, in 0..1; of the part saliency, the sum of all masks"


@dataclasses.dataclass(frozen=True, eq=False)
class FoundMasks:
    """Masks of one video.

    Attributes:
      seen: the video.
      name: of the class that they are of.
      result: from `perturbation.step`.
      perturbed: what the network is shown at the end, (A, t, s, s, 3) uint8 RGB: the clip under
        each mask, or without it where the mode is "delete".
    """

    seen: VideoClip
    name: str
    result: StepResult
    perturbed: np.ndarray

    @property
    def masks(self) -> dict[str, np.ndarray]:
        """By "area 0.1" and the like, (t, s, s) each."""
        names = [f"area {area}" for area in self.result.areas]
        return dict(zip(names, np.asarray(self.result.masks), strict=True))


def save_masks(
    found: FoundMasks, place: Path, settings: dict[str, Any], *, overwrite: bool
) -> None:
    """Write `<place>.nc`, saliency and masks, and `<place>_trace.csv`, energies by iteration."""
    r, seen = found.result, found.seen
    results.save_volumes(
        place.with_name(f"{place.name}.nc"),
        {"saliency": r.saliency, **found.masks},
        frame_index=seen.index,
        settings=settings,
        meaning=_MEANING,
        overwrite=overwrite,
        title="Masks of a clip",
        uid=seen.uid,
        class_name=found.name,
        score=float(r.clean_probability),
        mode=r.mode,
        areas=list(r.areas),
        probabilities=np.asarray(r.probability, np.float64).tolist(),
        energies=np.asarray(r.energy[:, -1], np.float64).tolist(),
        stopped_at=np.asarray(r.stopped_at).tolist(),
        failed_at=np.asarray(r.failed_at).tolist(),
    )
    pandas = require("pandas", "files")
    iterations = r.energy.shape[1]
    columns = {
        "iteration": np.tile(np.arange(iterations), len(r.areas)),
        "area": np.repeat(r.areas, iterations),
        "energy": np.asarray(r.energy).ravel(),
        "reward": np.asarray(r.reward).ravel(),
    }
    with atomic_path(place.with_name(f"{place.name}_trace.csv")) as path:
        pandas.DataFrame(columns).to_csv(path, index=False)


def draw_masks(found: FoundMasks, place: Path, overlay: Literal["mp4", "gif", "none"]) -> None:
    """Write `<place>_strip.png`, `<place>_trace.png`, and the videos `_overlay` and `_perturbed`.

    Args:
      found: the masks.
      place: where, without suffix.
      overlay: format of the two videos, or "none".
    """
    r, seen, masks = found.result, found.seen, found.masks
    title, frames = seen.path.name, seen.pictures
    way = "without" if r.mode == "delete" else "under"
    clean = f"{found.name}: probability {float(r.clean_probability):.3f}"
    each = dict(zip(masks, (f"{p:.3f}" for p in np.asarray(r.probability)), strict=True))
    strip = plots.plot_perturbation_strip(
        frames,
        masks,
        frame_labels=[str(i) for i in seen.index],
        title=title,
        lines=[
            clean,
            f"{way} each mask: {' / '.join(each.values())}",
            f"{r.mode}, {r.energy.shape[1]} iterations",
        ],
    )
    plots.save_figure(strip, place.with_name(f"{place.name}_strip.png"))
    curves = plots.plot_descent(
        r.energy, r.reward, list(masks), mode=r.mode, title=f"{title}: {found.name}"
    )
    plots.save_figure(curves, place.with_name(f"{place.name}_trace.png"))
    if overlay == "none":
        return
    shown = middle(list(masks))
    beside = plots.render_perturbation(
        frames,
        masks,
        found.perturbed[list(masks).index(shown)],
        shown=shown,
        index=seen.index,
        title=title,
        lines=[clean, f"{way} the mask of {shown}: {each[shown]}"],
    )
    alone = plots.render_clips([*found.perturbed])
    for name, pictures in (("overlay", beside), ("perturbed", alone)):
        data.write_video(place.with_name(f"{place.name}_{name}.{overlay}"), pictures, seen.pace)


def rows_of(found: FoundMasks) -> list[dict[str, Any]]:
    """A line of the table for each area."""
    r = found.result
    return [
        {
            "uid": found.seen.uid,
            "class": found.name,
            "mode": r.mode,
            "area": area,
            "probability_clean": float(r.clean_probability),
            "probability": float(r.probability[k]),
            "share_above_half": float((mask > 0.5).mean()),
            "top_frame": int(found.seen.index[mask.sum((1, 2)).argmax()]),
            "energy": float(r.energy[k, -1]),
            "stopped_at": int(r.stopped_at[k]),
            "failed_at": int(r.failed_at[k]),
        }
        for k, (area, mask) in enumerate(zip(r.areas, found.masks.values(), strict=True))
    ]
