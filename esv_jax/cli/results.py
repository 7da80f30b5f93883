"""`esv-jax results`: what is in files of results, as a summary, a table or side by side."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import tyro

from esv_jax import results
from esv_jax.checks import expect
from esv_jax.cli.printing import BAD_INPUT, complain, say
from esv_jax.files import atomic_path
from esv_jax.results import store
from esv_jax.sweeps.job import compare_data

_SHOWN = 20  # failures that are printed


@dataclasses.dataclass(frozen=True)
class Results:
    """Summarise files of results, write them as a table, or put several side by side.

    Examples: esv-jax results results; esv-jax results results --csv table.csv --classes gt pred;
    esv-jax results trn tsn --out both.nc
    """

    paths: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of esv-jax sweep or explain, or files of theirs (.nc)."""
    csv: Path | None = None
    """Write values in long form, one row per video, element and class that --classes names."""
    classes: tuple[str, ...] = ("pred",)
    """Whose values --csv holds: pred, gt, all, or names or numbers of classes."""
    out: Path | None = None
    """Write several results side by side, on the videos that all of them have, as one netCDF."""
    verify: bool = False
    """Read every file of a sweep and compare its checksum; compare the data with what was read."""
    overwrite: bool = False
    """Replace files that exist."""

    def run(self) -> int:
        """Print the summary and write the chosen files."""
        expect(len(self.paths) > 0, "paths", "at least one file or folder of results", "none")
        several = len(self.paths) > 1
        expect(self.csv is None or not several, "csv", "one file of results", "several")
        expect(self.out is None or several, "out", "several results to put side by side", "one")
        names = [str(path) for path in self.paths]
        expect(len(set(names)) == len(names), "paths", "each once", " ".join(names))
        opened, wrong = {}, 0
        for path in self.paths:
            if several:
                say(f"{path}")
            damaged = _verified(path) if self.verify else 0
            wrong += damaged
            if damaged:
                continue
            dataset = results.open(path)
            opened[str(path)] = dataset
            say(results.summary(dataset))
            failures = json.loads(dataset.attrs.get("failures", "{}"))
            for uid, reason in list(failures.items())[:_SHOWN]:
                say(f"  failed: {uid}: {reason}")
        if wrong:
            return BAD_INPUT
        if several:
            uids = [set(dataset["video"].values.tolist()) for dataset in opened.values()]
            say(f"in common: {len(set.intersection(*uids))} videos")
        if self.out is not None:
            with atomic_path(self.out, overwrite=self.overwrite) as temporary:
                collated = results.collate(opened)
                collated.to_netcdf(temporary, engine="h5netcdf")
            say(f"{collated.sizes['video']} videos side by side in {self.out}")
        if self.csv is not None:
            with atomic_path(self.csv, overwrite=self.overwrite) as temporary:
                frame = results.to_dataframe(opened[names[0]], list(self.classes))
                frame.to_csv(temporary, index=False)
            say(f"{len(frame):,} rows in {self.csv}")
        return 0


def _verified(path: Path) -> int:
    """Count the damaged parts of a sweep, printing each; the data are compared too."""
    expect(store.is_sweep(path), str(path), "a sweep, whose shards have checksums", "another file")
    records = store.read_records(path)
    wrong = [f"shard {index} is damaged" for index in store.damaged(path, records)]
    if not store.view_is_whole(path):
        wrong.append(f"{store.VIEW} is damaged")
    wrong = [f"{text}; the sweep's command makes it again" for text in wrong]
    if not wrong:
        say(f"{len(records)} shards are as they were written.")
    about = compare_data(path, records)
    if about.changed:
        named = ", ".join(about.changed[:3]) + (", ..." if len(about.changed) > 3 else "")
        wrong.append(f"{len(about.changed)} videos have changed since they were explained: {named}")
    say(about.note)
    for text in wrong:
        complain(f"{path}: {text}")
    return len(wrong)
