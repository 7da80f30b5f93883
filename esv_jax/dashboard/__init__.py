"""A dashboard over stored results: a reader in the browser, on this machine; it loads no model.

make_app        results to a Dash application
serve           an application to a server, until it is interrupted

Needs the `dashboard` extra, and `video` to learn the pace of videos. Nothing of Dash is imported
before `make_app`.
"""

from __future__ import annotations

from esv_jax.dashboard.app import make_app, serve

__all__ = ["make_app", "serve"]
