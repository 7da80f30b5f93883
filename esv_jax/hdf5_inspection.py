"""The inspection of HDF5 files, as a program of its own: requests on stdin, answers on stdout.

Imports nothing but h5py, so that it starts quickly; `esv_jax.hdf5` runs it. One line of JSON each:

    {"path": "f.h5", "views": false, "seconds": 5}  ->  {"refused": ""}, or why it is not opened
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

SMALL = 2**26
"""Bytes of a dataset that may be declared without being stored: fill values, for example."""

_READ = 2**24  # bytes of a file that is read as a whole; of larger ones names and numbers alone
_MAX_RATIO = 1100  # of the compression by deflate: 1032 at most
_MEMORY = 2**31  # bytes, and eight times the size of the file
_SHARD = re.compile(r"shards/\d{5,}\.nc")


class Refused(Exception):
    """Why a file is not opened."""


def inspect(path: str, views: bool) -> None:
    """Walk through a file and read its attributes, names and small datasets.

    Args:
      path: the file.
      views: whether virtual datasets may lie in `shards/<number>.nc` beside the file.
    Raises:
      Refused: with the reason. Other errors of reading are not reported: who opens the file next
        meets them again.
    """
    import h5py

    whole, folder = os.path.getsize(path) <= _READ, os.path.dirname(path)
    with h5py.File(path, "r") as file:
        _attempt(lambda: _expect_attributes(file))
        for name, item in _objects(h5py, file, {_address(h5py, file)}):
            _attempt(lambda item=item: _expect_attributes(item))
            if isinstance(item, h5py.Dataset):
                # Each on its own: an error in one must not keep the next from being tried.
                _attempt(lambda n=name, i=item: _expect_dataset(h5py, n, i, folder, views))
                _attempt(lambda i=item: _read(h5py, i, whole) if not i.is_virtual else None)


def _address(h5py: Any, item: Any) -> Any:
    return h5py.h5o.get_info(item.id).addr


def _objects(h5py: Any, group: Any, known: set[Any]) -> Iterator[tuple[str, Any]]:
    """Groups and datasets below a group, each once; links that lead elsewhere are refused first."""
    try:
        names = list(group)
    except Exception:
        raise Refused(f"damage ({group.name!r} cannot be listed)") from None
    for name in names:
        path = f"{group.name.rstrip('/')}/{name}"
        try:
            link = group.get(name, getlink=True)
        except Exception:
            raise Refused(f"a link of an unknown kind ({path!r})") from None
        if isinstance(link, h5py.ExternalLink):
            raise Refused(f"a link to another file ({path!r} to {link.filename!r})")
        if not isinstance(link, h5py.HardLink):
            continue  # to a name in this file, which is met by itself
        try:
            item = group[name]
        except Exception:  # readers cannot open it either
            continue
        try:
            address = _address(h5py, item)
        except Exception:
            if isinstance(item, h5py.Group):  # which may contain itself
                raise Refused(f"damage ({path!r} has no address)") from None
            address = path
        if address not in known:
            known.add(address)
            yield path, item
            if isinstance(item, h5py.Group):
                yield from _objects(h5py, item, known)


def _expect_attributes(item: Any) -> None:
    for name in item.attrs:
        _attempt(lambda name=name: item.attrs[name])


def _expect_dataset(h5py: Any, name: str, item: Any, folder: str, views: bool) -> None:
    """Refuse values that lie in other files, and sizes that nothing stored can bear out."""
    if item.external:
        raise Refused(f"values in another file ({name!r} in {item.external[0][0]!r})")
    if item.is_virtual:
        for source in {source.file_name for source in item.virtual_sources()} - {"."}:
            place = os.path.join(folder, source)
            shard = views and _SHARD.fullmatch(source)
            if not shard or (os.path.lexists(place) and not os.path.isfile(place)):
                raise Refused(f"values in another file ({name!r} in {source!r})")
        return
    chunk = 1
    for side in item.chunks or ():
        chunk *= side
    stored = item.id.get_storage_size()
    declared = max(item.size or 0, chunk) * item.dtype.itemsize
    if declared > max(SMALL, _MAX_RATIO * stored):
        raise Refused(f"{name!r} of {declared:,} bytes, of which {stored:,} are stored")


def _read(h5py: Any, item: Any, whole: bool) -> None:
    """Read a dataset of names or single numbers; any other only in a small file, not beyond 64 MB.

    Of a large file the values of variable length are read too, which lie in heaps, and the index of
    the chunks: the library may loop on both. Rows are read a few at a time: how much is in memory
    does not grow with what is declared.
    """
    if item.chunks:
        _attempt(item.id.get_num_chunks)
    names = item.ndim < 2 or h5py.check_vlen_dtype(item.dtype) is not None
    if not (whole or names) or item.shape is None:
        return
    if item.ndim == 0:
        _attempt(lambda: item[()])
        return
    row = item.dtype.itemsize
    for side in item.shape[1:]:
        row *= side
    n_rows = item.shape[0] if names else min(item.shape[0], SMALL // max(row, 1))
    step = max(1, _READ // 16 // max(row, 1), *(item.chunks or ())[:1])  # each chunk once
    for start in range(0, n_rows, step):
        _attempt(lambda start=start: item[start : min(start + step, n_rows)])


def _attempt(read: Any) -> None:
    """Call a reader of possibly damaged data; report refusals and exhausted memory alone."""
    try:
        read()
    except Refused:
        raise
    except Exception as error:
        if isinstance(error, MemoryError) or "alloc" in str(error).lower():
            raise Refused("a part that takes more memory than the file can fill") from None


def _limit(path: str, seconds: int) -> None:
    """Bound the memory of this process by the size of the file, and the time of its processor."""
    try:
        import resource
    except ImportError:  # not on every system
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    limits = {
        resource.RLIMIT_AS: _MEMORY + 8 * os.path.getsize(path),
        resource.RLIMIT_CPU: int(used.ru_utime + used.ru_stime) + 1 + seconds,
        resource.RLIMIT_CORE: 0,
    }
    for limit, most in limits.items():
        hard = resource.getrlimit(limit)[1]
        soft = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (soft, hard))


def answer(request: dict[str, Any]) -> dict[str, str]:
    """The answer to one request."""
    try:
        _limit(request["path"], request["seconds"])
        inspect(request["path"], request["views"])
    except Refused as refused:
        return {"refused": str(refused)}
    except Exception:  # no HDF5 file, or a damaged one: told when it is opened
        pass
    return {"refused": ""}


if __name__ == "__main__":
    for line in sys.stdin:
        sys.stdout.write(json.dumps(answer(json.loads(line))) + "\n")
        sys.stdout.flush()
