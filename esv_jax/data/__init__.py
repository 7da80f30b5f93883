"""What is explained, as it lies on disk or is made on the spot.

    read_ts             labelled sequences of any length from `.ts` text
    FeatureStore        features of many videos in one HDF5 file, read lazily; `write_features`
    open_inputs         any file of sequences behind one face; `open_videos`, the same of videos
    read_classes        class names; `read_class_priors`, the scores of the empty subsequence
    segment_centres     which elements of a long sequence stand for it; `sample_elements`
    propose_segments    shots, from how alike neighbouring elements are
    supervoxels         regions of a clip in space and time, of similar colour
    temporal_order      synthetic sequences whose classes differ by the order of events alone
    decode_frames       frames of a video or a folder of images, exactly; `probe_video`
    preprocess          frames as TSN and TRN want them; `resize_frames`
    prefetch            loading ahead in background threads
    write_video         frames to MP4 or GIF
    jpeg_still          one frame as a small JPEG
    synthetic_videos    rendered clips whose classes differ by the direction of time alone;
                        `write_synthetic_videos`

Everything here is NumPy on the host. h5py is imported when a store is opened or written,
PyAV when a video is, scikit-image when regions are made.
"""

from esv_jax.data.classes import read_class_priors, read_classes
from esv_jax.data.features import FeatureStore, UnknownUidError, write_features
from esv_jax.data.inputs import Inputs, open_inputs, open_videos
from esv_jax.data.prefetch import prefetch
from esv_jax.data.preprocessing import (
    TRN_BNINCEPTION,
    TSN_RESNET50,
    Preprocessing,
    preprocess,
    resize_frames,
)
from esv_jax.data.sampling import sample_elements, segment_centres
from esv_jax.data.segments import propose_segments
from esv_jax.data.stills import jpeg_still
from esv_jax.data.supervoxels import supervoxels
from esv_jax.data.synthetic import SyntheticSequences, temporal_order
from esv_jax.data.synthetic_video import (
    SYNTHETIC_VIDEO_CLASSES,
    SyntheticVideos,
    synthetic_videos,
)
from esv_jax.data.synthetic_video_files import write_synthetic_videos
from esv_jax.data.ts import Sequences, read_ts
from esv_jax.data.video import decode_frames, open_frames, probe_video
from esv_jax.data.video_reader import FrameReader, VideoInfo
from esv_jax.data.video_writer import write_video

__all__ = [
    "SYNTHETIC_VIDEO_CLASSES",
    "TRN_BNINCEPTION",
    "TSN_RESNET50",
    "FeatureStore",
    "FrameReader",
    "Inputs",
    "Preprocessing",
    "Sequences",
    "SyntheticSequences",
    "SyntheticVideos",
    "UnknownUidError",
    "VideoInfo",
    "decode_frames",
    "jpeg_still",
    "open_frames",
    "open_inputs",
    "open_videos",
    "prefetch",
    "preprocess",
    "probe_video",
    "propose_segments",
    "read_class_priors",
    "read_classes",
    "read_ts",
    "resize_frames",
    "sample_elements",
    "segment_centres",
    "supervoxels",
    "synthetic_videos",
    "temporal_order",
    "write_features",
    "write_synthetic_videos",
    "write_video",
]
