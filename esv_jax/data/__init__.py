"""Sequences, videos and features: files and synthetic data.

    read_ts             labelled sequences of any length from `.ts` text
    FeatureStore        features of many videos in one HDF5 file; `write_features`
    open_inputs         sequences from any supported file; `open_videos`, from videos
    decode_frames       frames of a video or a folder of images; `probe_video`
    segment_centres     frame numbers at the centres of equal segments
    preprocess          frames to the input of a network
    propose_segments    shots of a sequence; `supervoxels`, regions of a clip
    write_video         MP4 or GIF files
    temporal_order      synthetic sequences whose classes differ in the order of events
    synthetic_videos    synthetic clips whose classes differ in the direction of time

All of it is NumPy on the host. h5py, PyAV, Pillow and scikit-image are imported on first use.
"""

from esv_jax.data.features import FeatureStore, write_features
from esv_jax.data.inputs import open_inputs, open_videos
from esv_jax.data.preprocessing import preprocess, segment_centres
from esv_jax.data.segments import propose_segments, supervoxels
from esv_jax.data.synthetic import temporal_order
from esv_jax.data.synthetic_video import synthetic_videos
from esv_jax.data.ts import read_ts
from esv_jax.data.video_decode import decode_frames, probe_video
from esv_jax.data.video_writer import write_video

__all__ = [
    "FeatureStore",
    "decode_frames",
    "open_inputs",
    "open_videos",
    "preprocess",
    "probe_video",
    "propose_segments",
    "read_ts",
    "segment_centres",
    "supervoxels",
    "synthetic_videos",
    "temporal_order",
    "write_features",
    "write_video",
]
