"""`esv-jax results`: summary, table or collation of files of results."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import tyro

from esv_jax import results
from esv_jax.checks import expect, first_few
from esv_jax.cli.printing import BAD_INPUT, complain, say
from esv_jax.files import atomic_path
from esv_jax.results import store
from esv_jax.results.tables import summary
from esv_jax.sweeps.continuation import compare_data

_SHOWN = 20  # failures that are printed


@dataclasses.dataclass(frozen=True)
class Results:
    """Summarise results, write them as a table, or collate several.

    Examples: esv-jax results results; esv-jax results results --csv table.csv --classes gt pred;
    esv-jax results trn tsn --out both.nc
    """

    paths: tyro.conf.Positional[tuple[Path, ...]]
    """Output folders of esv-jax sweep or explain, or result files (.nc)."""
    csv: Path | None = None
    """Write values in long form: one row per video, element and class of --classes."""
    classes: tuple[str, ...] = ("pred",)
    """Classes in --csv: pred, gt, all, or names or numbers of classes."""
    out: Path | None = None
    """Write several results as one netCDF file, for the videos that all of them contain."""
    verify: bool = False
    """Compare the files of a sweep with their checksums, and the data with those explained."""
    overwrite: bool = False
    """Replace existing files."""

    def run(self) -> int:
        """Print the summary and write the files."""
        expect(len(self.paths) > 0, "paths", "at least one file or folder of results", "none")
        several = len(self.paths) > 1
        expect(self.csv is None or not several, "csv", "one file of results", "several")
        expect(self.out is None or several, "out", "several results to collate", "one")
        names = [str(path) for path in self.paths]
        expect(len(set(names)) == len(names), "paths", "each once", " ".join(names))
        opened, n_damaged = {}, 0
        for path in self.paths:
            if several:
                say(f"{path}")
            damaged = _verified(path) if self.verify else 0
            n_damaged += damaged
            if damaged:
                continue
            dataset = results.open(path)
            opened[str(path)] = dataset
            say(summary(dataset))
            failures = json.loads(dataset.attrs.get("failures", "{}"))
            for uid, reason in list(failures.items())[:_SHOWN]:
                say(f"  failed: {uid}: {reason}")
        if n_damaged:
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
    """Print and count the damaged parts of a sweep; compare its data."""
    expect(store.is_sweep(path), str(path), "a sweep, whose shards have checksums", "another file")
    records = store.read_records(path)
    wrong = [f"shard {index} is damaged" for index in store.damaged(path, records)]
    if not store.view_is_whole(path):
        wrong.append(f"{store.VIEW} is damaged")
    wrong = [f"{text}; the sweep's command restores it" for text in wrong]
    if not wrong:
        say(f"{len(records)} shards are intact.")
    changed, note = compare_data(path, records)
    if changed:
        names = first_few(changed)
        wrong.append(f"{len(changed)} videos have changed since they were explained: {names}")
    say(note)
    for text in wrong:
        complain(f"{path}: {text}")
    return len(wrong)
