"""`esv-jax dashboard`: look through stored results in a browser."""

from __future__ import annotations

import dataclasses
import functools
import secrets
from pathlib import Path
from urllib.parse import urlencode

import tyro

from esv_jax import results
from esv_jax.checks import expect
from esv_jax.cli.demo import Demo
from esv_jax.cli.outputs import videos_within
from esv_jax.cli.printing import say
from esv_jax.dashboard import make_app, serve
from esv_jax.dashboard.security import LOCAL


@dataclasses.dataclass(frozen=True)
class Dashboard:
    """Show results in a browser: each video with its bars, and the whole set.

    Without results those of the demo are shown, which is run first where it was not yet.

    Examples: esv-jax dashboard; esv-jax dashboard results --videos clips;
    esv-jax dashboard results-4 results-8 results-16 --videos clips
    """

    paths: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Folders of esv-jax sweep or explain, also those that hold such folders, or files of theirs
    (.nc). Several of the same videos with other --frames: a slider chooses among them."""
    videos: tuple[Path, ...] = ()
    """Videos to show beside the bars: files, folders, or lists of paths (.txt, .csv). Default the
    folder "videos" within the first of the results, where there is one."""
    port: int = 8050
    """Port to listen at."""
    host: str = "127.0.0.1"
    """Address to listen at; others than this machine's own let other machines read the results
    and these videos."""

    token: str | None = None
    """Secret in the address, without which the results cannot be read; default a random one.
    --token "" for none: every user of this machine can then read them."""

    def run(self) -> int:
        """Serve until interrupted."""
        expect(0 < self.port < 2**16, "port", "a number in 1..65535", self.port)
        paths = self.paths or (_of_demo(),)
        videos = self.videos or videos_within(paths[0])
        token = secrets.token_urlsafe(16) if self.token is None else self.token
        app = make_app(paths, videos, hosts=(self.host,), token=token)
        name = f"[{self.host}]" if ":" in self.host else self.host
        if name not in LOCAL:
            say(f"Whoever reaches {self.host} on the network can read these results and videos.")
        query = f"?{urlencode({'token': token})}" if token else ""
        address = f"http://{name}:{self.port}/{query}"
        ready = functools.partial(say, f"Results at {address} (Ctrl-C ends)")
        serve(app, host=self.host, port=self.port, on_ready=ready)
        return 0


def _of_demo() -> Path:
    """The folder of the demo's results, made where it is not there yet."""
    demo = Demo()
    if not results.is_results(demo.out):
        say("No results were given: those of the demo are made first.")
        demo.run()
    return demo.out
