"""Videos that the commands take: files, folders of them, lists; and the classes they show."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path

from esv_jax import data
from esv_jax.checks import expect, message, nearest
from esv_jax.data.image_folder import SUFFIXES as IMAGE_SUFFIXES

SUFFIXES = (".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".webm")


def find_videos(sources: Iterable[Path]) -> dict[str, Path]:
    """Files by uid, the name without suffix, in the order given; folders in alphabetical order.

    Args:
      sources: video files; folders, searched with all below them for files of the usual suffixes
        and for folders of images, each of which is one video; lists, `.txt` with one path a line
        or `.csv` with a column `path` and perhaps one `uid`. Paths in a list are taken from the
        folder of the list, and need not exist.
    Raises:
      FileNotFoundError: no such file or folder.
      ValueError: nothing found, one uid for two files, a malformed list.
    """
    found: dict[str, Path] = {}
    for source in sources:
        before = len(found)
        for uid, path in _videos_of(source):
            got = f"{str(found.get(uid))!r} and {str(path)!r}"
            way_out = "A .csv list with the columns path and uid can name them."
            distinct = found.get(uid, path).absolute() == path.absolute()
            expect(distinct, f"uid {uid!r}", "one video", got, way_out)
            found[uid] = path
        expect(len(found) > before or source.is_file(), str(source), "videos", "a folder of none")
    expect(bool(found), "videos", "at least one", "none")
    return found


def read_labels(path: Path, classes: Path | None = None) -> dict[str, int]:
    """Class ids by uid.

    Args:
      path: CSV file with the columns `uid` and `class`, the class an id or a name.
      classes: CSV file of class names (`name,id`), needed for names.
    Raises:
      FileNotFoundError: no such file.
      ValueError: columns missing, a uid twice, a name without `classes` or not among them.
    """
    names = () if classes is None else data.read_classes(classes)
    ids = {name: i for i, name in enumerate(names)}
    labels: dict[str, int] = {}
    for where, row in _rows(path, ("uid", "class")):
        cell, uid = row["class"].strip(), row["uid"].strip()
        expect(uid not in labels, where, "each uid once", f"{uid!r} again")
        if cell in ids:
            labels[uid] = ids[cell]
            continue
        way_out = nearest(cell, names) if names else "Names need --classes."
        expect(cell.isdecimal(), where, "a class id or a known name", repr(cell), way_out)
        known = not names or int(cell) < len(names)
        expect(known, where, f"a class id below {len(names)}", cell)
        labels[uid] = int(cell)
    return labels


def _videos_of(source: Path) -> Iterator[tuple[str, Path]]:
    if source.is_dir():
        below = sorted(path for path in source.rglob("*") if path.is_file())
        images = {path.parent for path in below if path.suffix.lower() in IMAGE_SUFFIXES}
        files = {path for path in below if path.suffix.lower() in SUFFIXES}
        for path in sorted(images | files):
            yield path.stem if path in files else path.absolute().name, path
        return
    if not source.is_file():
        expected = "a video, a folder of videos or a list"
        raise FileNotFoundError(message(str(source), expected, "no such file"))
    if source.suffix.lower() == ".txt":
        for line in filter(None, map(str.strip, _text(source).splitlines())):
            yield Path(line).stem, source.parent / line
    elif source.suffix.lower() == ".csv":
        for where, row in _rows(source, ("path",)):
            cell = row["path"].strip()
            expect(bool(cell), where, "a path", "an empty cell")
            yield row.get("uid", "").strip() or Path(cell).stem, source.parent / cell
    else:
        yield source.stem, source


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    """Rows of a CSV file that has at least these columns, each with its place."""
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        expected = f"columns {', '.join(columns)} in the first line"
        has_all = all(column in header for column in columns)
        expect(has_all, path.name, expected, ", ".join(header) or "an empty one")
        for cells in reader:
            where = f"{path.name}, line {reader.line_num}"
            if cells:
                expect(len(cells) == len(header), where, f"{len(header)} cells", len(cells))
                yield where, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        where = f"{path.name}, line {reader.line_num}"
        raise ValueError(message(where, "comma-separated values", f"an error: {error}")) from error


def _text(path: Path) -> str:
    expect(path.is_file(), "path", "a text file", f"{str(path)!r}", kind=FileNotFoundError)
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(message(path.name, "UTF-8 text", f"other bytes ({error})")) from error
