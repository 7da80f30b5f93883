"""What explanations become on disk: self-describing files, complete or not at all.

save, open, load_attribution, summary   values of the elements of many sequences
save_volumes, open_volumes              relevance, or masks, of the pixels of one clip
"""

from esv_jax.results.sequences import load_attribution, open, save, summary
from esv_jax.results.volumes import open_volumes, save_volumes

__all__ = ["load_attribution", "open", "open_volumes", "save", "save_volumes", "summary"]
