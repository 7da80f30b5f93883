"""Records to draw, and what is read off a figure."""

import jax.numpy as jnp
import numpy as np

from esv_jax.attribution import Attribution

LONG = (
    "Pretending to put something behind something but missing so that it falls off the table, "
    "which costs $5 and then $6"
)


def make_record(rng, n, *, exact=True, **fields) -> Attribution:
    """Values (n, 3) of a sequence, from 4,096 evaluations."""
    values = (rng.normal(size=(n, 3)) / n).astype(np.float32)
    prior = np.array([0.11, 0.2, 0.3], np.float32)
    error = None if exact else jnp.asarray(rng.random((n, 3)).astype(np.float32) / n)
    found = {"values": jnp.asarray(values), "scores": jnp.asarray(prior + values.sum(0))}
    found |= {"prior": jnp.asarray(prior), "std_error": error, "n_evaluations": 4096}
    return Attribution(**found | fields, exact=exact)


def texts_of(ax) -> str:
    """The heading and the text above the axes."""
    return " ".join([ax.get_title(loc="left"), *(text.get_text() for text in ax.texts)])


def is_inside(figure) -> bool:
    """True where everything drawn lies on the canvas."""
    figure.draw_without_rendering()
    box, page, near = figure.get_tightbbox(), figure.bbox_inches, 0.02
    return box.x0 > -near and box.y0 > -near and box.x1 < page.x1 + near and box.y1 < page.y1 + near
