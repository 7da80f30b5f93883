"""`esv-jax dashboard`: stored results in a browser."""

from __future__ import annotations

import dataclasses
import functools
import secrets
from pathlib import Path
from urllib.parse import urlencode

import tyro

from esv_jax.checks import expect
from esv_jax.cli.demo import Demo
from esv_jax.cli.printing import say
from esv_jax.dashboard import make_app, serve
from esv_jax.dashboard.server import LOCAL
from esv_jax.results.sequences import is_results, videos_within


@dataclasses.dataclass(frozen=True)
class Dashboard:
    """Show results in a browser: each video with its bars, and the whole set.

    Without arguments the results of the demo are shown; the demo is run first if necessary.

    Examples: esv-jax dashboard; esv-jax dashboard results --videos clips;
    esv-jax dashboard results-4 results-8 results-16 --videos clips
    """

    paths: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Output folders of esv-jax sweep or explain, folders that contain them, or result files (.nc).
    Results of the same videos with other --frames: a slider chooses among them."""
    videos: tuple[Path, ...] = ()
    """Videos to show beside the bars: files, folders, or lists of paths (.txt, .csv). Default: the
    folder "videos" within the first results, if it exists."""
    port: int = 8050
    """TCP port."""
    host: str = "127.0.0.1"
    """Address to listen at; with an address of the network, other machines can read the results and
    videos."""
    token: str | None = None
    """Secret in the URL, required to read the results; default a random one. --token "" requires
    none: every user of this machine can then read them."""

    def run(self) -> int:
        """Serve until interrupted."""
        expect(0 < self.port < 2**16, "port", "a number in 1..65535", self.port)
        paths = self.paths or (_demo_results(),)
        videos = self.videos or videos_within(paths[0])
        token = secrets.token_urlsafe(16) if self.token is None else self.token
        app = make_app(paths, videos, hosts=(self.host,), token=token)
        name = f"[{self.host}]" if ":" in self.host else self.host
        if name not in LOCAL:
            say(f"Machines that can reach {self.host} can read these results and videos.")
        query = f"?{urlencode({'token': token})}" if token else ""
        address = f"http://{name}:{self.port}/{query}"
        ready = functools.partial(say, f"Results at {address} (Ctrl-C ends)")
        serve(app, host=self.host, port=self.port, on_ready=ready)
        return 0


def _demo_results() -> Path:
    """Return the folder of the demo's results; runs the demo if it does not exist."""
    demo = Demo()
    if not is_results(demo.out):
        say("No results were given. Running the demo first.")
        demo.run()
    return demo.out
