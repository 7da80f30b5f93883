"""Requests to the dashboard's server: ordinary ones, malformed callbacks, odd addresses."""

from __future__ import annotations

import collections
import http.client
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import esv_jax as ej
from experiments.attack.harness import Outcome, complete, make_set, sweep_words
from experiments.browsing import dashboard

_THREADS, _SEQUENCES = 16, 60
_UPDATE = "/_dash-update-component"
_SECRET = "content outside the served folders"
_PAGES = (
    *("/", "/_dash-layout", "/_dash-dependencies", "/assets/dashboard.js"),
    *("/video/0", "/video/1", "/frame/0/3", "/frame/1/0"),
)


def _request(port: int, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    """Status and body of a response; status 0 without one."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Content-Type": "application/json"} if body is not None else {}
    try:
        connection.request("GET" if body is None else "POST", path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException) as error:
        return 0, repr(error).encode()
    finally:
        connection.close()


def callback_bodies(callbacks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Request bodies, without values, of the callbacks that run on the server.

    Args:
      callbacks: the list of "/_dash-dependencies".
    """
    found = []
    for callback in callbacks:
        if callback["clientside_function"]:
            continue
        names = callback["output"].strip(".").split("...")
        pairs = (name.rsplit(".", 1) for name in names)
        outputs = [dict(zip(("id", "property"), pair, strict=True)) for pair in pairs]
        body = {"output": callback["output"], "changedPropIds": []}
        body["outputs"] = outputs if callback["output"].startswith("..") else outputs[0]
        found.append(body | {"inputs": callback["inputs"], "state": callback["state"]})
    return found


def _with_query(body: dict[str, Any], query: str) -> dict[str, Any]:
    """The same body for another address of the page."""
    inputs = [
        each | {"value": query} if (each["id"], each["property"]) == ("url", "search") else each
        for each in body["inputs"]
    ]
    return body | {"inputs": inputs}


def malformed(rng: np.random.Generator, body: dict[str, Any]) -> dict[str, Any]:
    """A body with one item, at any depth, removed or replaced."""
    junk: list[Any] = [None, 0, -1, 2**60, 1.5, True, "", "x" * 20_000, "?uid=\0", [], {}, [[]]]
    junk += [[{}], "a.b", "[" * 9000, {"id": "url"}]
    junk += [[{"id": "url", "property": "search", "value": {"a": [1]}}]]
    body = at = json.loads(json.dumps(body))
    while True:
        names = list(at) if isinstance(at, dict) else list(range(len(at)))
        name = names[rng.integers(len(names))]
        if isinstance(at[name], dict | list) and at[name] and rng.random() < 0.7:
            at = at[name]
            continue
        if isinstance(at, dict) and rng.random() < 0.2:
            del at[name]
        else:
            at[name] = junk[rng.integers(len(junk))]
        return body


def _odd_paths(secret: Path) -> list[str]:
    up = ("../" * 12, "..%2f" * 12, "%2e%2e/" * 12, "..%5c" * 12, "/", "%2f", "//", "....//" * 12)
    roots = ("/video/", "/frame/", "/frame/0/", "/assets/", "/_dash-component-suites/", "/")
    names = (str(secret)[1:], "etc/passwd", "%00", "a" * 5000, "%ff%fe", "9" * 400, "-1")
    odd = [f"{root}{step}{name}" for root in roots for step in up for name in names]
    odd += [f"{root}{name}" for root in roots for name in names]
    return [*odd, "/video/0%00", "/_reload-hash/x", "/sweep.json", "/results.nc", "/" + "x" * 9000]


def requests(folder: Path, seed: int, n: int, n_malformed: int) -> Outcome:
    """n ordinary requests by 16 threads, malformed callbacks, and about 400 odd addresses."""
    make_set(folder, _SEQUENCES, seed)
    results, rng = folder / "whole", np.random.default_rng(seed)
    complete(*sweep_words(folder, results))
    clips, secret = folder / "clips", folder / "secret"
    clips.mkdir()
    for k in range(2):
        frames = rng.integers(0, 255, (6, 32, 32, 3), np.uint8)
        ej.data.write_video(clips / f"v{k}.mp4", frames, fps=6)
    secret.write_text(_SECRET)
    faults, statuses, log = [], collections.Counter[str](), list[str]()
    with dashboard(str(results), "--videos", str(clips), said=log) as address:
        port = int(address.rpartition(":")[2])
        bodies = callback_bodies(json.loads(_request(port, "/_dash-dependencies")[1]))
        cases: list[tuple[str, str, bytes | None, tuple[int, ...]]] = []
        for k in range(n):
            if k % 4 == 0:
                cases.append(("ordinary", _PAGES[k // 4 % len(_PAGES)], None, (200,)))
                continue
            query = f"?uid=v{rng.integers(_SEQUENCES)}&classes={rng.integers(3)}"
            body = _with_query(bodies[k % len(bodies)], query)
            cases.append(("ordinary", _UPDATE, json.dumps(body).encode(), (200, 204)))
        for k in range(n_malformed):
            body = malformed(rng, _with_query(bodies[k % len(bodies)], "?uid=v3"))
            cases.append(("malformed", _UPDATE, json.dumps(body).encode(), (200, 204, 400)))
        deep = b"[" * 450_000 + b"]" * 450_000
        cases += [("malformed", _UPDATE, text, (400, 413)) for text in (deep, b"{", b"\xff", b"")]
        cases += [("odd", path, None, (400, 404)) for path in _odd_paths(secret)]
        with ThreadPoolExecutor(_THREADS) as pool:
            answers = list(pool.map(lambda one: _request(port, *one[1:3]), cases))
    for (kind, path, sent, right), (status, answer) in zip(cases, answers, strict=True):
        statuses[f"{kind} {status}"] += 1
        served = kind == "odd" and (_SECRET.encode() in answer or b"root:" in answer)
        if status not in right or served:
            given = "" if sent is None else f" with {sent[:300]!r}"
            what = "a file outside is served" if served else f"status {status}"
            faults.append(f"{kind}: {path[:300]}{given}: {what} {answer[:200]!r}")
    if "Traceback" in (text := "".join(log)):
        faults.append(f"the log has a traceback: {text[-1500:]}")
    detail = ", ".join(f"{count} {name}" for name, count in sorted(statuses.items()))
    return Outcome(len(cases), tuple(faults), detail)
