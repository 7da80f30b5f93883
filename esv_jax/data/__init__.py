"""What is explained, as it lies on disk or is made on the spot.

    read_ts             labelled sequences of any length from `.ts` text
    FeatureStore        features of many videos in one HDF5 file, read lazily; `write_features`
    read_classes        class names; `read_class_priors`, the scores of the empty subsequence
    segment_centres     which elements of a long sequence stand for it; `sample_elements`
    propose_segments    shots, from how alike neighbouring elements are
    temporal_order      synthetic sequences whose classes differ by the order of events alone

Everything here is NumPy on the host. h5py is imported when a store is opened or written.
"""

from esv_jax.data.classes import read_class_priors, read_classes
from esv_jax.data.features import FeatureStore, UnknownUidError, write_features
from esv_jax.data.sampling import sample_elements, segment_centres
from esv_jax.data.segments import propose_segments
from esv_jax.data.synthetic import SyntheticSequences, temporal_order
from esv_jax.data.ts import Sequences, read_ts

__all__ = [
    "FeatureStore",
    "Sequences",
    "SyntheticSequences",
    "UnknownUidError",
    "propose_segments",
    "read_class_priors",
    "read_classes",
    "read_ts",
    "sample_elements",
    "segment_centres",
    "temporal_order",
    "write_features",
]
