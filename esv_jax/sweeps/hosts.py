"""Several processes of one JAX runtime that sweep together."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from esv_jax.checks import expect
from esv_jax.files import JSONObject
from esv_jax.sweeps.continuation import differences


def connect(
    coordinator: str | None = None,
    n_hosts: int | None = None,
    host: int | None = None,
    *,
    cluster: bool = False,
) -> None:
    """Join the other processes of a run; call it before any computation.

    Args:
      coordinator: address and port of the first process, "10.0.0.1:1234".
      n_hosts: number of processes. host: index of this one, 0..n_hosts - 1.
      cluster: let JAX read all three from its cluster (SLURM, Open MPI, TPU pods, Kubernetes).
    Raises:
      ValueError: some of the three without the others, or beside `cluster`; a number out of range.
      RuntimeError: by JAX, if the others do not join.
    """
    given = (coordinator, n_hosts, host)
    if given == (None,) * 3:
        if cluster:
            jax.distributed.initialize()
        return
    expect(not cluster, "cluster", "nothing beside it", f"{given}")
    expected = "all of coordinator, hosts and host"
    expect(None not in given, "hosts", expected, f"{given}", "Or --cluster alone.")
    assert n_hosts is not None and host is not None
    expect(n_hosts >= 1, "hosts", "a number >= 1", n_hosts)
    expect(0 <= host < n_hosts, "host", f"a number in 0..{n_hosts - 1}", host)
    jax.distributed.initialize(coordinator, n_hosts, host)


def expect_agreement(identity: JSONObject) -> None:
    """Raise, on every host, if one has another identity than the first."""
    if jax.process_count() == 1:
        return
    first, *others = _gather(identity)
    for host, other in enumerate(others, 1):
        got, way_out = differences(first, other), "Start all hosts with the same options."
        expect(other == first, "hosts", f"what host 0 has, on host {host} too", got, way_out)


def from_first(work: Callable[[], Any]) -> Any:
    """Return the result of `work` on the first host, a JSON value, on every host; or its error.

    Raises:
      ValueError, OSError: as raised by `work`.
    """
    if jax.process_count() == 1:
        return work()
    answer: JSONObject = {}
    if jax.process_index() == 0:
        try:
            answer = {"result": work()}
        except (ValueError, OSError) as error:
            answer = {"error": str(error), "kind": type(error).__name__}
    answer = _gather(answer)[0]
    if "error" in answer:
        kinds = {kind.__name__: kind for kind in (FileExistsError, PermissionError, OSError)}
        raise kinds.get(answer["kind"], ValueError)(answer["error"])
    return answer["result"]


def _gather(content: JSONObject) -> list[JSONObject]:
    """Return the JSON of every host on every host."""
    text = np.frombuffer(json.dumps(content, sort_keys=True).encode(), np.uint8)
    sizes = np.ravel(multihost_utils.process_allgather(np.array([len(text)], np.int32)))
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: len(text)] = text
    rows = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(sizes), -1)
    return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]
