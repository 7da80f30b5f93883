"""Adding videos to a feature store one by one, so that a run that ends early loses none.

HDF5 has no safe way to grow a file under a process that may be killed. What is added goes to a
journal beside the store, `<name>.partial`, record by record; on closing, store and journal become
one new store, which replaces the old one when it is complete. A journal found on opening, left by
a run that was killed, is carried on.

    one line of JSON: format, feature_dim, split, settings; then for each video
    one line of JSON: uid, n, labels, crc; then n * D float32 numbers, little-endian
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from esv_jax.checks import expect, expect_int, message
from esv_jax.data.features import (
    FeatureStore,
    Label,
    as_float32,
    expect_same_kinds,
    label_kinds,
    write_features,
)
from esv_jax.files import expect_writable

_FORMAT = 1
_BEGIN = b'{"format": '  # of every journal
_RECORD = {"uid": str, "n": int, "labels": dict, "crc": int}
_LONGEST = 2**24  # bytes of its first line

Record = tuple[str, np.ndarray, dict[str, Label]]


class FeatureAppender:
    """Features of further videos for a store, which may be there already or not.

        with FeatureAppender("trn.hdf", feature_dim=256) as store:
            for uid in uids:
                if uid not in store:
                    store.append(uid, features_of(uid), {"action": 3})

    Whatever ends the `with` block, what was appended is in the store afterwards; if the process is
    killed, in the journal, and in the store after the next run.

    Attributes:
      path: the store. journal: the file beside it.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        feature_dim: int,
        split: str = "validation",
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Open a store and its journal.

        Args:
          path: HDF5 file, in a folder that exists.
          feature_dim: D.
          split: the only group of the store.
          settings: how the features come about, as JSON can hold it. What is there must have come
            about in the same way.
        Raises:
          FileNotFoundError, OSError: no such folder, a place that cannot be written to.
          ValueError: a store or journal of another width, split or settings; a file of another
            format.
        Cost: reads the names in the store, and the journal.
        """
        self.path = Path(path)
        self.journal = self.path.with_name(f"{self.path.name}.partial")
        self._about = {
            "format": _FORMAT,
            "feature_dim": expect_int("feature_dim", feature_dim, minimum=1),
            "split": split,
            "settings": json.loads(json.dumps(dict(settings or {}))),
        }
        expect_writable(self.path)
        self._uids: set[str] = set()
        self._kinds: dict[str, type] | None = None
        if self.path.exists():
            self._read_store()
        end = self._read_journal()
        self._file: IO[bytes] = open(self.journal, "ab", buffering=0)  # noqa: SIM115
        self._file.truncate(end)  # what a killed run left behind the last whole record
        if end == 0:
            self._write(_line(self._about))

    def _read_store(self) -> None:
        """Take up names and kinds of labels of the store that is there."""
        with FeatureStore(self.path) as store:
            found = {"feature_dim": store.feature_dim, "split": store.split}
            self._expect_same(self.path.name, found | {"settings": store.settings})
            self._uids.update(store.uids)
            if store.uids:
                first = store.uids[0]
                self._kinds = label_kinds(first, store[first][1])

    def _read_journal(self) -> int:
        """Take up the whole records; returns how many bytes of the journal hold."""
        if not self.journal.exists():
            return 0
        with open(self.journal, "rb") as file:
            line = file.readline(_LONGEST)
            if not line.endswith(b"\n"):
                begun, ours = line[: len(_BEGIN)], _BEGIN[: len(line)]
                got, way_out = "a file of other origin", "Move it away."
                expect(begun == ours, str(self.journal), "the journal of a store", got, way_out)
                return 0
            self._expect_same(self.journal.name, _parsed(line) or {})
            end = file.tell()
            for uid, _, labels in self._records(file):
                self._uids.add(uid)
                self._kinds = label_kinds(uid, labels) if self._kinds is None else self._kinds
                end = file.tell()
        return end

    def _expect_same(self, name: str, found: Mapping[str, Any]) -> None:
        for key in ("feature_dim", "split", "settings"):
            want, got = self._about[key], found.get(key)
            if key == "settings" and isinstance(got, dict):
                differing = sorted(k for k in {*want, *got} if want.get(k) != got.get(k))
                want, got = ({k: x.get(k) for k in differing} for x in (want, got))
            way_out = "Choose another file, or go on as it was begun."
            expect(want == got, f"{name}, {key}", want, got, way_out)

    def __contains__(self, uid: object) -> bool:
        return uid in self._uids

    def __len__(self) -> int:
        return len(self._uids)

    def expect_labels(self, uid: str, labels: Mapping[str, Label]) -> dict[str, type]:
        """The kinds of a video's labels; refuses those that `append` would, before long work.

        Raises:
          TypeError: a label that is no number or string.
          ValueError: other names or kinds than those of the first video.
        """
        came = label_kinds(uid, labels)
        expect_same_kinds(uid, came, came if self._kinds is None else self._kinds)
        return came

    def append(self, uid: str, features: Any, labels: Mapping[str, Label] | None = None) -> None:
        """Add one video; once this returns, the end of the process does not undo it.

        Args:
          uid: its name, new to the store.
          features: (n, D) floating-point, n >= 1; stored as float32.
          labels: numbers or strings, of the same names and kinds for every video.
        Raises:
          TypeError, ValueError: as `write_features`.
          OSError: a disk that is full.
        """
        if not isinstance(uid, str):
            raise TypeError(message("uid", "a string", f"{type(uid).__name__} {uid!r}"))
        expect(uid not in self._uids, "uid", "a new uid", f"{uid!r}, which is stored already")
        x = as_float32(uid, features, self._about["feature_dim"])
        self._kinds = came = self.expect_labels(uid, labels or {})
        values = x.astype("<f4").tobytes()
        plain = {name: came[name](value) for name, value in (labels or {}).items()}
        line = _line({"uid": uid, "n": len(x), "labels": plain, "crc": zlib.crc32(values)})
        self._write(line + values)
        self._uids.add(uid)

    def _write(self, content: bytes) -> None:
        """Write all of `content`, or nothing of it."""
        end = self._file.seek(0, os.SEEK_END)
        try:
            while content:
                content = content[self._file.write(content) :]
        except BaseException:
            self._file.truncate(end)
            raise

    def _records(self, file: IO[bytes]) -> Iterator[Record]:
        """The whole records from the present place of the journal on."""
        dim = self._about["feature_dim"]
        size = os.fstat(file.fileno()).st_size
        while entry := _parsed(file.readline()):
            if any(not isinstance(entry.get(name), kind) for name, kind in _RECORD.items()):
                return
            if not 1 <= entry["n"] <= size // (4 * dim):
                return
            values = file.read(4 * dim * entry["n"])
            if len(values) < 4 * dim * entry["n"] or zlib.crc32(values) != entry["crc"]:
                return
            x = np.frombuffer(values, "<f4").reshape(entry["n"], dim)
            yield entry["uid"], x.astype(np.float32), entry["labels"]

    def _all_records(self) -> Iterator[Record]:
        stored: set[str] = set()
        if self.path.exists():
            with FeatureStore(self.path) as store:
                stored.update(store.uids)
                yield from ((uid, *store[uid]) for uid in store)
        with open(self.journal, "rb") as file:
            file.readline()
            # A run killed between writing the store and removing the journal left videos in both.
            yield from (record for record in self._records(file) if record[0] not in stored)

    def close(self) -> None:
        """Make one store of what there was and what was added. Closing twice is harmless.

        Raises:
          OSError, ValueError: the store cannot be written or read; the journal is kept.
        Cost: writes the store anew if anything was added; memory for one video and the uids.
        """
        if self._file.closed:
            return
        try:
            if self._file.seek(0, os.SEEK_END) > len(_line(self._about)):
                dim, split = self._about["feature_dim"], self._about["split"]
                settings = self._about["settings"]
                write_features(
                    self.path, self._all_records(), dim, split, overwrite=True, settings=settings
                )
        finally:
            self._file.close()
        self.journal.unlink()

    def __enter__(self) -> FeatureAppender:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _line(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content).encode() + b"\n"


def _parsed(line: bytes) -> dict[str, Any] | None:
    """A whole line of JSON, or None where the file ends or breaks off."""
    if not line.endswith(b"\n"):
        return None
    try:
        content = json.loads(line)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None
