"""Incremental writing of a feature store.

HDF5 cannot safely grow a file in a process that may be killed. Features of each video are written
to a file of their own, in the folder `<name>.partial` beside the store; on closing, the store is
rewritten with them. If the process is killed, the next one continues from the folder.

    00000017.npz    features (n, D) float32 of one video; uid, labels, split and settings as JSON
    lock            held by the process that writes
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from os import PathLike
from pathlib import Path

import numpy as np
from jax.typing import ArrayLike

from esv_jax.checks import expect, expect_int, message
from esv_jax.data.features import (
    FeatureStore,
    Label,
    as_float32,
    expect_string,
    label_kinds,
    write_features,
)
from esv_jax.files import atomic_path, expect_writable, locked_folder, remove_leftovers

_PART = re.compile(r"\d{8}\.npz")


class FeatureAppender:
    """Writer that adds videos to a new or existing feature store.

        with FeatureAppender("trn.hdf", feature_dim=256) as store:
            for uid in uids:
                if uid not in store:
                    store.append(uid, features_of(uid), {"action": 3})

    Appended videos are in the store after the `with` block, also after an error. If the process is
    killed, they are in the folder, and in the store after the next run.

    Attributes:
      path: the store.
      folder: the folder beside it.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        feature_dim: int,
        split: str = "validation",
        settings: Mapping[str, object] | None = None,
    ) -> None:
        """Open a store, whose split and settings must be equal, and lock its folder.

        Raises:
          FileNotFoundError, OSError: no such folder, a path that cannot be written.
          FileExistsError: another process appends to the store, or a file in place of the folder.
          ValueError: another width, split, settings or format.
        """
        self.path = Path(path)
        self.folder = self.path.with_name(f"{self.path.name}.partial")
        self._feature_dim = expect_int("feature_dim", feature_dim, minimum=1)
        self._split = split
        self._settings: dict[str, object] = json.loads(json.dumps(dict(settings or {})))
        self._uids: set[str] = set()
        self._kinds: dict[str, type] | None = None
        self._parts: list[Path] = []
        self._next_part = 0
        expect_writable(self.path)
        with ExitStack() as stack:
            stack.enter_context(locked_folder(self.folder, "path", "a store with one writer"))
            remove_leftovers(self.folder)
            if self.path.exists():
                with FeatureStore(self.path) as store:
                    self._check_same(self.path.name, store.feature_dim, store.split, store.settings)
                    self._uids.update(store.uids)
                    for uid in store.uids[:1]:
                        self._kinds = label_kinds(uid, store[uid][1])
            for part in sorted(self.folder.iterdir()):
                if _PART.fullmatch(part.name):
                    self._next_part = int(part.stem) + 1
                    if (video := self._read_part(part)) is not None:
                        self._parts.append(part)
                        self._uids.add(video[0])
                        if self._kinds is None:
                            self._kinds = label_kinds(video[0], video[2])
            self._lock = stack.pop_all()

    def _read_part(self, part: Path) -> tuple[str, np.ndarray, dict[str, Label]] | None:
        """Uid, features and labels in a file of the folder; None if it is damaged."""
        try:
            with open(part, "rb") as file, np.load(file, allow_pickle=False) as arrays:
                if arrays.zip.testzip() is not None:  # compares checksums
                    return None
                about, x = json.loads(str(arrays["about"])), arrays["features"]
            uid, split = about["uid"], about["split"]
            labels, settings = dict(about["labels"]), dict(about["settings"])
        except Exception:  # a damaged or foreign file can raise anything
            return None
        self._check_same(f"{self.folder.name}/{part.name}", x.shape[-1], split, settings)
        return uid, x, labels

    def _check_same(
        self, name: str, feature_dim: int, split: str, settings: Mapping[str, object]
    ) -> None:
        """Refuse features of another width, split or settings."""
        own, keys = self._settings, sorted({*self._settings, *settings})
        differing = [key for key in keys if own.get(key) != settings.get(key)]
        ours, theirs = ({key: each.get(key) for key in differing} for each in (own, settings))
        way_out = "Choose another file, or continue with the same settings."
        for key, expected, got in (
            ("feature_dim", self._feature_dim, feature_dim),
            ("split", self._split, split),
            ("settings", ours, theirs),
        ):
            expect(expected == got, f"{name}, {key}", str(expected), got, way_out)

    def __contains__(self, uid: object) -> bool:
        return uid in self._uids

    def __len__(self) -> int:
        return len(self._uids)

    def expect_labels(self, uid: str, labels: Mapping[str, Label]) -> dict[str, type]:
        """Types of the labels of a video; refuses those that `append` would, before long work."""
        return label_kinds(uid, labels, self._kinds)

    def append(
        self, uid: str, features: ArrayLike, labels: Mapping[str, Label] | None = None
    ) -> None:
        """Add one video, (n, D) with n >= 1. Once this returns, it outlives the process.

        Raises:
          TypeError, ValueError: as `write_features`; a uid that is in the store.
          OSError: a full disk; the video is not added.
        """
        expect_string(uid)
        expect(uid not in self._uids, "uid", "a new uid", f"{uid!r}, which is stored already")
        x = as_float32(uid, features, self._feature_dim)
        kinds = self.expect_labels(uid, labels or {})
        plain = {name: kinds[name](value) for name, value in (labels or {}).items()}
        about = {"uid": uid, "labels": plain, "split": self._split, "settings": self._settings}
        part = self.folder / f"{self._next_part:08d}.npz"
        with atomic_path(part, within=self.folder) as temporary:
            np.savez(temporary, features=x, about=json.dumps(about))
        self._next_part += 1
        self._parts.append(part)
        self._uids.add(uid)
        self._kinds = kinds

    def _videos(self, parts: list[Path]) -> Iterator[tuple[str, np.ndarray, dict[str, Label]]]:
        """All videos of the store and of the folder."""
        stored: set[str] = set()
        if self.path.exists():
            with FeatureStore(self.path) as store:
                stored.update(store.uids)
                yield from ((uid, *store[uid]) for uid in store)
        for part in parts:
            video = self._read_part(part)
            if video is None:
                raise ValueError(message(str(part), "features of a video", "damage"))
            if video[0] not in stored:  # in both: killed before the folder was cleared
                yield video

    def close(self) -> None:
        """Write the store with the added videos. Closing twice is harmless.

        Raises:
          OSError, ValueError: the store cannot be written or read; the folder is kept.
        Cost: writes the store anew if anything was added; memory for one video and the uids.
        """
        parts, self._parts = self._parts, []
        with self._lock.pop_all():
            if parts:
                write_features(
                    self.path,
                    self._videos(parts),
                    self._feature_dim,
                    self._split,
                    overwrite=True,
                    settings=self._settings,
                )
            for part in parts:
                part.unlink()

    def __enter__(self) -> FeatureAppender:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
