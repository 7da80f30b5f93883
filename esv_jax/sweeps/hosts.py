"""Several processes, by JAX's own distributed runtime, that agree on what they do."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from esv_jax.checks import expect, message


def connect(
    coordinator: str | None = None,
    n_hosts: int | None = None,
    host: int | None = None,
    *,
    cluster: bool = False,
) -> None:
    """Join the other processes of a run; before anything is computed.

    Args:
      coordinator: address and port of the first process, "10.0.0.1:1234".
      n_hosts: processes in all. host: which one this is, 0..n_hosts - 1.
      cluster: let JAX read all three from the cluster that it runs in (SLURM, Open MPI, TPU pods,
        Kubernetes).
    Raises:
      ValueError: some of the three without the others, or beside `cluster`; a number out of range.
      RuntimeError: of JAX, where the others do not come.
    """
    given = (coordinator, n_hosts, host)
    if cluster:
        expect(given == (None,) * 3, "cluster", "nothing beside it", f"{given}")
        jax.distributed.initialize()
        return
    if given == (None,) * 3:
        return
    expected = "all of coordinator, hosts and host"
    expect(None not in given, "hosts", expected, f"{given}", "Or --cluster alone.")
    assert n_hosts is not None and host is not None
    expect(n_hosts >= 1, "hosts", "a number >= 1", n_hosts)
    expect(0 <= host < n_hosts, "host", f"a number in 0..{n_hosts - 1}", host)
    jax.distributed.initialize(coordinator, n_hosts, host)


def expect_agreement(identity: dict[str, Any], describe: Callable[[Any, Any], str]) -> None:
    """Raise, on every host, where one has another identity than the first.

    Args:
      identity: of this host, as JSON allows.
      describe: what differs between two, in words.
    """
    if jax.process_count() == 1:
        return
    every = _gathered(identity)
    for host, other in enumerate(every):
        if other != every[0]:
            got, way_out = describe(every[0], other), "Start all hosts alike."
            expected = f"what host 0 has, on host {host} too"
            raise ValueError(message("hosts", expected, got, way_out))


def from_first(work: Callable[[], Any]) -> Any:
    """Return the result of `work` on the first host, as JSON, on every host; likewise its errors.

    Raises:
      ValueError, OSError: as `work` raised there.
    """
    if jax.process_count() == 1:
        return work()
    answer: dict[str, Any] = {}
    if jax.process_index() == 0:
        try:
            answer = {"result": work()}
        except (ValueError, OSError) as error:
            answer = {"error": str(error), "kind": type(error).__name__}
    answer = _gathered(answer)[0]
    if "error" in answer:
        kinds = {kind.__name__: kind for kind in (FileExistsError, PermissionError, OSError)}
        raise kinds.get(answer["kind"], ValueError)(answer["error"])
    return answer["result"]


def _gathered(content: Any) -> list[Any]:
    """JSON of every host, on every host."""
    text = np.frombuffer(json.dumps(content, sort_keys=True).encode(), np.uint8)
    sizes = np.ravel(multihost_utils.process_allgather(np.array([len(text)], np.int32)))
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: len(text)] = text
    rows = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(sizes), -1)
    return [
        json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes.tolist(), strict=True)
    ]
