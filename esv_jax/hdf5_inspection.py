"""Program that inspects HDF5 files: requests on stdin, replies on stdout.

Started by `esv_jax.hdf5`. Imports nothing but h5py, to start quickly. One line of JSON each:

    {"path": "f.h5", "views": false, "seconds": 5}  ->  {"refused": ""}, or the reason to refuse
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import h5py

_SMALL = 2**26  # bytes that a dataset may declare without storing them, e.g. fill values
_READ = 2**24  # bytes up to which all datasets of a file are read, not only names and numbers
_MAX_RATIO = 1100  # of compression; that of deflate is at most 1032
_MEMORY = 2**31  # bytes, in addition to eight times the size of the file
_SHARD = re.compile(r"shards/\d{5,}\.nc")


class Refused(Exception):
    """The reason not to open a file."""


def inspect(path: str, views: bool) -> None:
    """Read attributes, names and small datasets of a file.

    Args:
      path: the file.
      views: whether the sources of virtual datasets may be `shards/<number>.nc` beside the file.
    Raises:
      Refused: with the reason. Other errors are not reported; readers of the file get them again.
    """
    import h5py

    read_all, folder = os.path.getsize(path) <= _READ, os.path.dirname(path)
    with h5py.File(path, "r") as file:
        _despite_damage(_read_attributes, file)
        for name, item in _objects(file, {_address(file)}):
            _despite_damage(_read_attributes, item)
            if isinstance(item, h5py.Dataset):
                # Separate attempts: an error in one does not prevent the next.
                _despite_damage(_check_dataset, name, item, folder, views)
                _despite_damage(_read, item, read_all)


def _address(item: h5py.Group | h5py.Dataset) -> int:
    import h5py

    return h5py.h5o.get_info(item.id).addr


def _objects(
    group: h5py.Group, known: set[int | str]
) -> Iterator[tuple[str, h5py.Group | h5py.Dataset]]:
    """Yield the groups and datasets below a group, each once; refuse external links."""
    import h5py

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
            continue  # a soft link, whose target is visited by itself
        try:
            item = group[name]
        except Exception:  # nor can readers open it
            continue
        try:
            address: int | str = _address(item)
        except Exception:
            if isinstance(item, h5py.Group):  # it may contain itself
                raise Refused(f"damage ({path!r} has no address)") from None
            address = path
        if address not in known:
            known.add(address)
            yield path, item
            if isinstance(item, h5py.Group):
                yield from _objects(item, known)


def _read_attributes(item: h5py.Group | h5py.Dataset) -> None:
    for name in item.attrs:
        _despite_damage(item.attrs.__getitem__, name)


def _check_dataset(name: str, item: h5py.Dataset, folder: str, views: bool) -> None:
    """Refuse values in other files, and sizes larger than what is stored can decompress to."""
    if item.external:
        raise Refused(f"values in another file ({name!r} in {item.external[0][0]!r})")
    if item.is_virtual:
        for source in {source.file_name for source in item.virtual_sources()} - {"."}:
            path = os.path.join(folder, source)
            is_shard = views and _SHARD.fullmatch(source)
            if not is_shard or (os.path.lexists(path) and not os.path.isfile(path)):
                raise Refused(f"values in another file ({name!r} in {source!r})")
        return
    stored = item.id.get_storage_size()
    declared = max(item.size or 0, math.prod(item.chunks or ())) * item.dtype.itemsize
    if declared > max(_SMALL, _MAX_RATIO * stored):
        raise Refused(f"{name!r} of {declared:,} bytes, of which {stored:,} are stored")


def _read(item: h5py.Dataset, read_all: bool) -> None:
    """Read a dataset of names or single numbers, and with `read_all` any other up to 64 MB."""
    # Values of variable length, which are stored in heaps, and the index of the chunks are always
    # read: the library may loop on both. Rows are read a few at a time to bound the memory.
    import h5py

    if item.is_virtual:
        return
    if item.chunks:
        _despite_damage(item.id.get_num_chunks)
    names = item.ndim < 2 or h5py.check_vlen_dtype(item.dtype) is not None
    if not (read_all or names) or item.shape is None:
        return
    if item.ndim == 0:
        _despite_damage(item.__getitem__, ())
        return
    row = item.dtype.itemsize * math.prod(item.shape[1:])
    n_rows = item.shape[0] if names else min(item.shape[0], _SMALL // max(row, 1))
    step = max(1, _READ // 16 // max(row, 1), *(item.chunks or ())[:1])  # reads each chunk once
    for start in range(0, n_rows, step):
        _despite_damage(item.__getitem__, slice(start, min(start + step, n_rows)))


def _despite_damage(read: Callable[..., object], *arguments: object) -> None:
    """Call a reader of possibly damaged data; report only refusals and exhausted memory."""
    try:
        read(*arguments)
    except Refused:
        raise
    except Exception as error:
        if isinstance(error, MemoryError) or "alloc" in str(error).lower():
            raise Refused("a part that takes more memory than the file can fill") from None


def _limit(path: str, seconds: int) -> None:
    """Limit the memory of this process, by the size of the file, and its CPU time."""
    try:
        import resource
    except ImportError:  # missing on some systems
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


def reply(path: str, views: bool, seconds: int) -> dict[str, str]:
    """The reply to one request."""
    try:
        _limit(path, seconds)
        inspect(path, views)
    except Refused as refused:
        return {"refused": str(refused)}
    except Exception:  # not an HDF5 file, or a damaged one: opening it raises
        pass
    return {"refused": ""}


if __name__ == "__main__":
    for line in sys.stdin:
        sys.stdout.write(json.dumps(reply(**json.loads(line))) + "\n")
        sys.stdout.flush()
