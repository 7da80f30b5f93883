"""Results on disk: self-describing files, written completely or not at all.

save, open, is_results, load_attribution    values of the elements of many sequences; of sweeps, too
summary, to_dataframe, collate              the same in few lines, as a table, several side by side
Browser                                     the same filtered, sorted, one video at a time
save_volumes, open_volumes                  relevance, or masks, of the pixels of one clip
"""

from esv_jax.results.browse import Browser
from esv_jax.results.sequences import is_results, load_attribution, open, save
from esv_jax.results.tables import collate, summary, to_dataframe
from esv_jax.results.volumes import open_volumes, save_volumes

__all__ = [
    "Browser",
    "collate",
    "is_results",
    "load_attribution",
    "open",
    "open_volumes",
    "save",
    "save_volumes",
    "summary",
    "to_dataframe",
]
