"""A dashboard over stored results, in a browser on this machine; it loads no model.

make_app        results to a Dash application
serve           serves an application until it is interrupted

Needs the `dashboard` extra, and `video` to read the frame rates of videos. Dash is imported by
`make_app`.
"""

from esv_jax.dashboard.app import make_app
from esv_jax.dashboard.server import serve

__all__ = ["make_app", "serve"]
