"""Functions and files visited by the first call of `explain` of a shape.

    python -m experiments.benchmarks.call_path

Counts distinct functions of the package, with those of tracing; comprehensions and lambdas belong
to the function that contains them. Heads by scale at 8 elements, exact values.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections import defaultdict
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import numpy as np

import esv_jax as ej
from experiments.random_models import random_heads

PACKAGE = str(Path(ej.__file__).parent)


def visited(call: Any) -> dict[str, list[str]]:
    """Names of the functions that `call` visits, by file."""
    found: dict[str, set[str]] = defaultdict(set)

    def profile(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(PACKAGE):
            return
        if not code.co_name.startswith("<") and code.co_flags & inspect.CO_NEWLOCALS:
            found[str(Path(code.co_filename).relative_to(PACKAGE))].add(code.co_qualname)

    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
    return {file: sorted(names) for file, names in sorted(found.items())}


def main() -> None:
    game = ej.MultiScale(random_heads(0, 8, 4, 5, 3))
    x = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    prior = np.full(3, 1 / 3)
    ej.explain  # noqa: B018  # imports what it needs
    files = visited(lambda: jax.block_until_ready(ej.explain(game, x, prior=prior).values))
    for file, names in files.items():
        print(f"{file}: {', '.join(names)}")
    print(json.dumps({"functions": sum(map(len, files.values())), "files": len(files)}))


if __name__ == "__main__":
    main()
