"""Synthetic videos whose classes differ by the direction of time, with ground truth per pixel.

A clip is a shot in which something happens (a hand pushes an object, a box opens, ...), before and
after it the empty scene or another shot, now and then an insert in between. Classes come in pairs
in the spirit of Something-Something (Goyal et al., 2017): one is the other run backwards, so their
frames, shuffled, have one distribution, and only order tells them apart. Which frames and
which pixels carry the evidence is known, which makes attributions testable.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from esv_jax.checks import expect, expect_choice, expect_int, expect_key, message
from esv_jax.data.synthetic_video_scripts import CLASS_NAMES, PAIRS, bystander, decoys
from esv_jax.data.synthetic_video_strokes import Stroke, crops, draw, grain, grain_corners, texture

SYNTHETIC_VIDEO_CLASSES = CLASS_NAMES
"""Every class; 2p and 2p + 1 are partners, each the other run backwards."""

_EMPTY, _EVENT, _CUTAWAY, _FLASH = range(4)
_SWAY = 0.06  # how far the camera strays from its middle at most, as a share of the picture
_TIMELINE, _SCENE, _CAMERA, _LABELS = range(4)  # each purpose has random numbers of its own


@dataclass(frozen=True, eq=False)
class SyntheticVideos:
    """Rendered clips, and the truth about them.

    Attributes:
      clips: (N, t, h, w, 3) uint8.
      labels: index into `class_names`, (N,) int64.
      class_names: C names such as "pushing to the right".
      evidence_frames: frames that show the objects of the class at some stage of what happens to
        them, (N, t) bool. The others show the empty scene, another shot or a flash, which are
        drawn alike for every class.
      evidence_mask: pixels of these objects and of the hand in evidence frames,
        (N, t, h, w) bool; False in all other frames.
      uids: names that stay the same however many clips are made, e.g. "synthetic-5eed0001-00042".
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
    """Clips of hands and objects, labelled by what happens, with the evidence in each.

    What happens takes 40 to 65 % of a clip, anywhere in it, at a speed that changes by up to a
    factor of four, with short holds at its ends; in half of the clips an insert of another shot
    or a flash hides 5 to 10 % of the clip's time within it. A grey bystander is in the scene
    throughout; other shots show objects or hands too, which do nothing. Textures, colours,
    shapes, places, sizes and skin are drawn anew for each clip. Clip i depends on key and i alone,
    neither on n nor on its neighbours. In time, `n_frames` only sets how finely the same scene is
    sampled.

    The second class of a pair is the first run backwards, camera and noise included: the same key
    with `classes=[forward]` and `classes=[backward]` gives clips that are each other reversed.

    Args:
      n: clips N, at least 1.
      key: typed PRNG key, consumed; or give `seed`, which stands for `jax.random.key(seed)`.
      seed: an integer >= 0, in place of a key.
      n_frames: frames of a whole clip, at least 8.
      size: height and width in pixels, at least 16.
      classes: names to draw from, in the order of their labels; default all of
        `SYNTHETIC_VIDEO_CLASSES`. Each run of C clips has every class once.
      first: number of the first clip; clips first..first + n - 1 are made.
      frames: which of a clip's frames to render, 0..n_frames - 1 each, e.g.
        `segment_centres(n_frames, 8)`; t is their number. Default all, t = n_frames.
      noise: standard deviation of the film grain in grey levels, 0 or more.
      jitter: strength of camera shake, 0 for a tripod, 1 as usual.
    Returns:
      `SyntheticVideos`. The same arguments give the same bytes.
    Raises:
      TypeError: a size that is no integer, a key that is not typed.
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
    names = _checked_classes(classes)
    at = _checked_frames(frames, n_frames)
    for name, value in (("noise", noise), ("jitter", jitter)):
        if not (np.isfinite(value) and value >= 0):
            raise ValueError(message(name, "a finite number >= 0", value))

    numbers = range(first, first + n)
    labels = np.fromiter(_labels(words, numbers, len(names)), np.int64, n)
    clips = np.empty((n, len(at), size, size, 3), np.uint8)
    evidence = np.zeros(clips.shape[:-1], bool)
    happens = np.zeros(clips.shape[:2], bool)
    for row, number in enumerate(numbers):
        pair, backward = divmod(CLASS_NAMES.index(names[labels[row]]), 2)
        film = _Film(n_frames, n_frames - 1 - at if backward else at, size, noise, jitter)
        happens[row] = _render(film, pair, (*words, number), clips[row], evidence[row])
    digest = f"{words[0] ^ words[-1]:08x}"
    return SyntheticVideos(
        clips=clips,
        labels=labels,
        class_names=names,
        evidence_frames=happens,
        evidence_mask=evidence,
        uids=tuple(f"synthetic-{digest}-{number:05d}" for number in numbers),
    )


class _Film(NamedTuple):
    """Recording settings of a clip: its length, the frames to render, the picture size."""

    n_frames: int
    at: np.ndarray
    size: int
    noise: float
    jitter: float


def _render(
    film: _Film, pair: int, words: tuple[int, ...], clip: np.ndarray, evidence: np.ndarray
) -> np.ndarray:
    """Render one clip of a pair's forward class into `clip` (t, h, w, 3) and `evidence` (t, h, w).

    Returns which frames show what happens, (t,).
    """
    shown, progress = _timeline(film, _stream(words, _TIMELINE))
    size, margin = film.size, max(1, round(_SWAY * film.size))
    camera = _stream(words, _CAMERA)
    sway = _sway(film, margin, camera)[film.at]  # (t, 2), whole pixels
    corners = margin + sway
    gain = camera.normal(1, 0.03, film.n_frames)[film.at].astype(np.float32)
    speckle = grain_corners(film.n_frames, camera)[film.at]

    scene = _stream(words, _SCENE)
    side = size + 2 * margin
    here, elsewhere = texture(side, scene), texture(side, scene)
    flash = scene.uniform(200, 255, 3).astype(np.float32)
    here, elsewhere = _with(here, bystander(scene)), _with(elsewhere, decoys(scene))

    picture = crops(here, corners, size)  # (3, t, h, w)
    event = np.flatnonzero(shown == _EVENT)
    if len(event):
        acted = picture[:, event]
        seen = np.zeros(acted.shape[1:], bool)
        offset = sway[event] / size
        for stroke in PAIRS[pair].script(scene, progress[event]):
            draw(acted, _shifted(stroke, offset), seen)
        picture[:, event] = acted
        evidence[event] = seen
    cutaway, bright = shown == _CUTAWAY, shown == _FLASH
    picture[:, cutaway] = crops(elsewhere, corners[cutaway], size)
    picture[:, bright] = picture[:, bright] * np.float32(0.15) + (flash * 0.85)[:, None, None, None]
    picture *= gain[None, :, None, None]
    if film.noise:
        picture += np.float32(film.noise) * grain(speckle, size)[None]
    picture += np.float32(0.5)
    np.clip(picture, 0, 255, out=picture)
    for channel, plane in enumerate(picture):
        clip[..., channel] = plane
    return shown == _EVENT


def _timeline(film: _Film, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the shot of each frame and the progress of its action, both (t,)."""
    time = (film.at + 0.5) / film.n_frames
    width = rng.uniform(0.4, 0.65)
    start = rng.uniform(0.01, 0.99 - width)
    local = (time - start) / width
    event = (local >= 0) & (local <= 1)
    before, after = rng.uniform(0, 0.12, 2)  # holds at the ends
    moved = np.clip((local - before) / (1 - before - after), 0, 1)
    speed = 4 ** rng.uniform(-0.5, 0.5)  # at the beginning, 1 / speed at the end
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
    """Return the shift of a hand-held camera in each frame, (n_frames, 2) whole pixels."""
    time = (np.arange(film.n_frames)[:, None] + 0.5) / film.n_frames
    phase, cycles = rng.random(2), rng.uniform(0.5, 2, 2)
    drift = np.abs((cycles * time + phase) % 1 - 0.5) * 4 - 1  # a triangle, -1..1
    shake = rng.normal(0, 0.25, (film.n_frames, 2))
    off = film.jitter * margin * (0.6 * drift + shake)
    return np.clip(np.round(off), -margin, margin).astype(np.int64)


def _with(still: np.ndarray, strokes: list[Stroke]) -> np.ndarray:
    """A texture (3, side, side) with strokes at rest on it."""
    picture = still[:, None]
    for stroke in strokes:
        draw(picture, stroke, np.zeros(picture.shape[1:], bool))
    return picture[:, 0]


def _shifted(stroke: Stroke, offset: np.ndarray) -> Stroke:
    """The stroke as the camera sees it: what it films moves the other way."""
    return stroke._replace(start=stroke.start - offset, end=stroke.end - offset)


def _labels(words: tuple[int, ...], numbers: range, n_classes: int) -> Iterator[int]:
    """The label of each clip: every run of `n_classes` clips has all classes, in random order."""
    order: tuple[int, Any] = (-1, None)
    for number in numbers:
        run, place = divmod(number, n_classes)
        if run != order[0]:
            order = run, _stream((*words, run), _LABELS).permutation(n_classes)
        yield int(order[1][place])


def _stream(words: tuple[int, ...], purpose: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([purpose, *words])))


def _words(key: jax.Array | None, seed: int | None) -> tuple[int, ...]:
    """The key as a few 32-bit numbers."""
    if (key is None) == (seed is None):
        got = "neither" if key is None else "both"
        raise ValueError(message("key, seed", "one of the two", got, "Pass seed=0, say."))
    if seed is not None:
        key = jax.random.key(expect_int("seed", seed, minimum=0))
    return tuple(int(word) for word in np.asarray(jax.random.key_data(expect_key("key", key))))


def _checked_classes(classes: Sequence[str] | None) -> tuple[str, ...]:
    if classes is None:
        return CLASS_NAMES
    if isinstance(classes, str):
        way_out = "One class alone is written [name]."
        raise TypeError(message("classes", "a list of names", repr(classes), way_out))
    names = tuple(classes)
    expect(bool(names), "classes", "at least one name", "none")
    for name in names:
        expect_choice("classes", name, CLASS_NAMES)
    expect(len({*names}) == len(names), "classes", "each name once", names)
    return names


def _checked_frames(frames: Any, n_frames: int) -> np.ndarray:
    if frames is None:
        return np.arange(n_frames)
    at = np.asarray(frames)
    if not np.issubdtype(at.dtype, np.integer):
        raise TypeError(message("frames", "integers", f"dtype {at.dtype}"))
    expect(at.ndim == 1 and len(at) > 0, "frames", "shape (t,), t >= 1", f"shape {at.shape}")
    inside = f"indices in 0..{n_frames - 1}"
    expect(at.min() >= 0 and at.max() < n_frames, "frames", inside, at.tolist())
    return at
