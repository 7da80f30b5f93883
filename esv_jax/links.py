"""Link functions by name: from logits to the scores whose Shapley differences are taken."""

from __future__ import annotations

from typing import Literal, get_args

Link = Literal["softmax", "sigmoid", "identity"]
LINKS: tuple[Link, ...] = get_args(Link)
