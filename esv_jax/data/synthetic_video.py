"""Synthetic videos whose classes differ only in the direction of time, with ground truth.

The frames and pixels that are evidence of the class are known, so that attributions can be tested.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from esv_jax.checks import expect, expect_choice, expect_int, expect_key
from esv_jax.data.synthetic_drawing import (
    ACTIONS,
    CLASS_NAMES,
    Stroke,
    bystander,
    crops,
    decoys,
    draw,
    grain,
    texture,
    triangle_wave,
)
from esv_jax.data.video_writer import write_video
from esv_jax.files import atomic_path, make_folder

SYNTHETIC_VIDEO_CLASSES = CLASS_NAMES

_EMPTY, _EVENT, _CUTAWAY, _FLASH = range(4)
_SWAY = 0.06  # maximum shift of the camera, as a fraction of the picture
_TIMELINE, _SCENE, _CAMERA, _LABELS = range(4)  # purposes of random streams


@dataclass(frozen=True, eq=False)
class SyntheticVideos:
    """Rendered clips with ground truth.

    Attributes:
      clips: (N, t, h, w, 3) uint8.
      labels: index into `class_names`, (N,) int64.
      class_names: C names such as "pushing to the right".
      evidence_frames: frames that show the action, (N, t) bool. The others show the empty scene,
        another shot or a flash, with the same distribution for every class.
      evidence_mask: pixels of the objects and of the hand in evidence frames, (N, t, h, w) bool.
      uids: names that do not depend on N, e.g. "synthetic-5eed0001-00042".
    """

    clips: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    evidence_frames: np.ndarray
    evidence_mask: np.ndarray
    uids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


def synthetic_videos(
    n: int,
    *,
    key: jax.Array | None = None,
    seed: int | None = None,
    n_frames: int = 32,
    size: int = 64,
    classes: Sequence[str] | None = None,
    first: int = 0,
    frames: Sequence[int] | np.ndarray | None = None,
    noise: float = 5.0,
    jitter: float = 1.0,
) -> SyntheticVideos:
    """Clips of hands and objects whose classes differ by the direction of time, with ground truth.

    A clip shows an action (a hand pushes an object, a box opens, ...), before and after it the
    empty scene or another shot. Classes come in pairs in the spirit of Something-Something (Goyal
    et al., 2017): the second is the first run backwards, camera and noise included, so that only
    the order of frames tells them apart. The same key with `classes=[forward]` and
    `classes=[backward]` gives clips that are each other reversed.

    The action takes 40 to 65 % of a clip, at any position, at a speed that changes by up to a
    factor of four, with short holds at its ends; in half of the clips another shot or a flash hides
    5 to 10 % of the clip's time within it. A grey bystander is in the scene throughout; other shots
    show idle objects or hands. Textures, colours, shapes, positions, sizes and skin are random.
    Clip i depends on key and i alone. `n_frames` only sets the sampling of the scene in time.

    Args:
      n: number of clips N, >= 1.
      key: typed PRNG key, consumed; or pass `seed`.
      seed: an integer >= 0, for `jax.random.key(seed)`.
      n_frames: frames of a whole clip, >= 8.
      size: height and width in pixels, >= 16.
      classes: names to draw from, in the order of their labels; default all of
        `SYNTHETIC_VIDEO_CLASSES`. Each run of C clips has every class once.
      first: number of the first clip; clips first..first + n - 1 are made.
      frames: numbers of the frames to render, 0..n_frames - 1 each, e.g.
        `segment_centres(n_frames, 8)`. Default all, t = n_frames.
      noise: standard deviation of the film grain in grey levels, >= 0.
      jitter: strength of camera shake, >= 0; 1 is usual.
    Returns:
      `SyntheticVideos`. The same arguments give the same bytes.
    Raises:
      TypeError: a size that is not an integer, a key that is not typed.
      ValueError: a size out of range, neither or both of key and seed, unknown or repeated
        classes, frames outside the clip.
    Cost: some 2 ms per clip and 0.05 ms per frame of 64 x 64 pixels on one CPU core; 4 N t h w
      bytes are returned.
    """
    n = expect_int("n", n, minimum=1)
    n_frames = expect_int("n_frames", n_frames, minimum=8)
    size = expect_int("size", size, minimum=16)
    first = expect_int("first", first, minimum=0)
    words = _words(key, seed)
    names = CLASS_NAMES if classes is None else _checked_classes(classes)
    at = np.arange(n_frames) if frames is None else _checked_frames(frames, n_frames)
    for name, value in (("noise", noise), ("jitter", jitter)):
        expect(0 <= value < np.inf, name, "a finite number >= 0", value)

    numbers, c = range(first, first + n), len(names)
    runs = {
        run: _stream((*words, run), _LABELS).permutation(c)
        for run in range(numbers[0] // c, numbers[-1] // c + 1)
    }
    labels = np.array([runs[number // c][number % c] for number in numbers], np.int64)
    clips = np.empty((n, len(at), size, size, 3), np.uint8)
    evidence = np.zeros(clips.shape[:-1], bool)
    evidence_frames = np.zeros(clips.shape[:2], bool)
    for row, number in enumerate(numbers):
        pair, backward = divmod(CLASS_NAMES.index(names[labels[row]]), 2)
        film = _Film(n_frames, n_frames - 1 - at if backward else at, size, noise, jitter)
        evidence_frames[row] = _render(film, pair, (*words, number), clips[row], evidence[row])
    digest = f"{words[0] ^ words[-1]:08x}"
    uids = tuple(f"synthetic-{digest}-{number:05d}" for number in numbers)
    return SyntheticVideos(clips, labels, names, evidence_frames, evidence, uids)


def write_synthetic_videos(
    folder: str | PathLike[str], videos: SyntheticVideos, fps: float = 12.0
) -> list[Path]:
    """Write clips as MP4 files, with their ground truth.

        <uid>.mp4       the clip; compression changes its pixels slightly
        clips.json      class names; of each clip: uid, label, class, evidence frames
        evidence.npz    "<uid>": evidence mask (t, h, w) bool

    Args:
      folder: created if missing; files of the same names are replaced.
      videos: from `synthetic_videos`.
      fps: frames per second, > 0.
    Returns:
      The video files, in the order of the clips.
    Raises:
      ImportError: PyAV is not installed.
      ValueError, OSError: as `write_video`.
    """
    folder = Path(folder)
    make_folder(folder)
    clips, paths = [], []
    for i, uid in enumerate(videos.uids):
        paths.append(folder / f"{uid}.mp4")
        write_video(paths[-1], videos.clips[i], fps)
        label, shown = int(videos.labels[i]), np.flatnonzero(videos.evidence_frames[i]).tolist()
        about = {"uid": uid, "label": label, "class": videos.class_names[label]}
        clips.append(about | {"evidence_frames": shown})
    text = json.dumps({"class_names": list(videos.class_names), "clips": clips}, indent=1)
    with atomic_path(folder / "clips.json") as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    with atomic_path(folder / "evidence.npz") as temporary:
        masks = dict(zip(videos.uids, videos.evidence_mask, strict=True))
        np.savez_compressed(temporary, allow_pickle=False, **masks)
    return paths


class _Film(NamedTuple):
    """Settings of the rendering of a clip; `at` are the frames to render, (t,)."""

    n_frames: int
    at: np.ndarray
    size: int
    noise: float
    jitter: float


def _render(
    film: _Film, pair: int, words: tuple[int, ...], clip: np.ndarray, evidence: np.ndarray
) -> np.ndarray:
    """Render a clip of a pair's first class into `clip` (t, h, w, 3) and `evidence` (t, h, w).

    Returns a mask of the frames that show the action, (t,).
    """
    shown, progress = _timeline(film, _stream(words, _TIMELINE))
    size, margin = film.size, max(1, round(_SWAY * film.size))
    camera = _stream(words, _CAMERA)
    sway = _sway(film, margin, camera)[film.at]  # (t, 2), whole pixels
    corners = margin + sway
    gain = camera.normal(1, 0.03, film.n_frames)[film.at].astype(np.float32)

    scene = _stream(words, _SCENE)
    side = size + 2 * margin
    here, elsewhere = texture(side, scene), texture(side, scene)
    flash = scene.uniform(200, 255, 3).astype(np.float32)
    here, elsewhere = _drawn_on(here, bystander(scene)), _drawn_on(elsewhere, decoys(scene))

    picture = crops(here, corners, size)  # (3, t, h, w)
    event = np.flatnonzero(shown == _EVENT)
    if len(event):
        acted = picture[:, event]
        seen = np.zeros(acted.shape[1:], bool)
        offset = sway[event] / size
        for stroke in ACTIONS[pair](scene, progress[event]):
            moved = stroke._replace(start=stroke.start - offset, end=stroke.end - offset)
            draw(acted, moved, seen)
        picture[:, event] = acted
        evidence[event] = seen
    cutaway, bright = shown == _CUTAWAY, shown == _FLASH
    picture[:, cutaway] = crops(elsewhere, corners[cutaway], size)
    picture[:, bright] = picture[:, bright] * np.float32(0.15) + (flash * 0.85)[:, None, None, None]
    picture *= gain[None, :, None, None]
    if film.noise:
        picture += np.float32(film.noise) * grain(film.n_frames, film.at, size, camera)[None]
    picture += np.float32(0.5)
    np.clip(picture, 0, 255, out=picture)
    for channel, plane in enumerate(picture):
        clip[..., channel] = plane
    return shown == _EVENT


def _timeline(film: _Film, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The shot and the progress of the action in each frame, both (t,)."""
    time = (film.at + 0.5) / film.n_frames
    width = rng.uniform(0.4, 0.65)
    start = rng.uniform(0.01, 0.99 - width)
    local = (time - start) / width
    event = (local >= 0) & (local <= 1)
    before, after = rng.uniform(0, 0.12, 2)  # holds at the ends
    moved = np.clip((local - before) / (1 - before - after), 0, 1)
    speed = 4 ** rng.uniform(-0.5, 0.5)  # at the start, 1 / speed at the end
    progress = speed * moved / (1 + (speed - 1) * moved)

    outside = np.where(rng.random(2) < 0.5, _EMPTY, _CUTAWAY)
    shown = np.where(event, _EVENT, np.where(local < 0, outside[0], outside[1]))
    inserts = np.where(rng.random(2) < 0.5, _CUTAWAY, _FLASH)
    spans = rng.uniform(0.05, 0.1, 2)
    within = start + rng.uniform(0, width - spans[0])
    if rng.random() < 0.5:
        shown[(time >= within) & (time < within + spans[0])] = inserts[0]
    anywhere = rng.uniform(0, 1 - spans[1])
    shown[~event & (time >= anywhere) & (time < anywhere + spans[1])] = inserts[1]
    return shown, progress


def _sway(film: _Film, margin: int, rng: np.random.Generator) -> np.ndarray:
    """Shift of a hand-held camera in each frame, (n_frames, 2) whole pixels."""
    time = (np.arange(film.n_frames)[:, None] + 0.5) / film.n_frames
    phase, cycles = rng.random(2), rng.uniform(0.5, 2, 2)
    drift = triangle_wave(cycles * time + phase)
    shake = rng.normal(0, 0.25, (film.n_frames, 2))
    off = film.jitter * margin * (0.6 * drift + shake)
    return np.clip(np.round(off), -margin, margin).astype(np.int64)


def _drawn_on(background: np.ndarray, strokes: list[Stroke]) -> np.ndarray:
    """A background (3, side, side) with static strokes."""
    picture = background[:, None]
    for stroke in strokes:
        draw(picture, stroke, np.zeros(picture.shape[1:], bool))
    return picture[:, 0]


def _stream(words: tuple[int, ...], purpose: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([purpose, *words])))


def _words(key: jax.Array | None, seed: int | None) -> tuple[int, ...]:
    """The key as 32-bit numbers."""
    got = "neither" if key is None else "both"
    one = (key is None) != (seed is None)
    expect(one, "key, seed", "one of the two", got, "Pass seed=0, say.")
    if seed is not None:
        key = jax.random.key(expect_int("seed", seed, minimum=0))
    return tuple(np.asarray(jax.random.key_data(expect_key("key", key))).tolist())


def _checked_classes(classes: Sequence[str]) -> tuple[str, ...]:
    is_list, way_out = not isinstance(classes, str), "One class alone is written [name]."
    expect(is_list, "classes", "a list of names", repr(classes), way_out, kind=TypeError)
    names = tuple(classes)
    expect(len(names) > 0, "classes", "at least one name", "none")
    for name in names:
        expect_choice("classes", name, CLASS_NAMES)
    expect(len({*names}) == len(names), "classes", "each name once", names)
    return names


def _checked_frames(frames: Sequence[int] | np.ndarray, n_frames: int) -> np.ndarray:
    at = np.asarray(frames)
    expect(at.dtype.kind in "iu", "frames", "integers", f"dtype {at.dtype}", kind=TypeError)
    expect(at.ndim == 1 and len(at) > 0, "frames", "shape (t,), t >= 1", f"shape {at.shape}")
    fits = bool(at.min() >= 0 and at.max() < n_frames)
    expect(fits, "frames", f"indices in 0..{n_frames - 1}", at.tolist())
    return at
