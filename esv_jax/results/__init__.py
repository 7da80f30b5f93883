"""Results on disk: self-describing netCDF files, written completely or not at all.

save, open, load_attribution    values of the elements of many sequences; `open` also reads sweeps
to_dataframe, collate           the same as a table, and several results side by side

`results.volumes` holds relevance, or masks, of the pixels of one clip.
"""

from esv_jax.results.sequences import load_attribution, open, save
from esv_jax.results.tables import collate, to_dataframe

__all__ = ["collate", "load_attribution", "open", "save", "to_dataframe"]
