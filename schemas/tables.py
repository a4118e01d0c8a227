"""The Arrow schema of every table wamloom persists, in one place."""

import pyarrow as pa

from schemas.embodiment import VIEW_SLOTS

PRIMARY_KEY = {"lance-schema:unenforced-primary-key": "true"}
BLOB_PREFIX = "video_"
"""Blob column of view slot ``s`` is ``video_s``."""
DEPTH_PREFIX = "depth_"
"""Blob column of the depth that accompanies view slot ``s`` is ``depth_s``."""

INSTRUCTION = pa.struct(
    [("text", pa.string()), ("field", pa.string()), ("start_ns", pa.int64()), ("stop_ns", pa.int64())]
)
SEGMENT = pa.struct([("kind", pa.string()), ("start_ns", pa.int64()), ("stop_ns", pa.int64()), ("label", pa.string())])
FINDING = pa.struct(
    [
        ("rule", pa.string()),
        ("severity", pa.string()),
        ("where", pa.string()),
        ("message", pa.string()),
        ("index", pa.int64()),
        ("numbers", pa.list_(pa.struct([("name", pa.string()), ("value", pa.float64())]))),
    ]
)
MEASURE = pa.struct([("name", pa.string()), ("value", pa.float64()), ("unit", pa.string())])
STREAM = pa.struct(
    [
        ("name", pa.string()),
        ("dtype", pa.string()),  # numpy dtype string, little-endian
        ("shape", pa.list_(pa.int64())),
        ("data", pa.large_binary()),  # C order: exact in every dtype
        ("times_ns", pa.large_list(pa.int64())),
        ("clock", pa.string()),
    ]
)
VIEW = pa.struct(
    [
        ("slot", pa.string()),
        ("key", pa.string()),
        ("codec", pa.string()),
        ("container", pa.string()),
        ("width_px", pa.int32()),
        ("height_px", pa.int32()),
        ("num_frames", pa.int64()),
        ("first_frame", pa.int64()),
        ("times_ns", pa.large_list(pa.int64())),
        ("num_bytes", pa.int64()),
        ("sha256", pa.string()),  # of the blob
        ("packets_sha256", pa.string()),
        ("how", pa.string()),
        ("is_depth", pa.bool_()),
        ("part", pa.string()),  # of each frame that shows this camera: whole | left_half
        ("file", pa.string()),  # relative to the lake, where the video is too large for a blob; else ""
    ]
)
CALIBRATION = pa.struct(
    [
        ("camera", pa.string()),
        ("slot", pa.string()),  # "" where the camera fills none
        ("origin", pa.string()),
        ("intrinsics", pa.list_(pa.float64())),
        ("width_px", pa.int32()),
        ("height_px", pa.int32()),
        ("extrinsics", pa.list_(pa.float64())),
        ("convention", pa.string()),
        ("frame", pa.string()),
        ("note", pa.string()),
    ]
)
LOCATION = pa.struct(
    [
        ("location", pa.string()),
        ("key", pa.string()),
        ("split", pa.string()),
        ("dataset", pa.string()),
        ("state", pa.string()),
        ("revision", pa.int64()),  # 1, and one more each time the files of that place were found changed
    ]
)

EPISODE_FIELDS: list[pa.Field] = [
    pa.field("episode_id", pa.string(), nullable=False, metadata=PRIMARY_KEY),
    pa.field("outcome", pa.string()),  # kept | rejected | failed
    pa.field("reason", pa.string()),
    pa.field("message", pa.string()),
    pa.field("where", pa.string()),
    pa.field("hint", pa.string()),
    # provenance
    pa.field("dataset", pa.string()),  # card name, or the source's own name where no card applied
    pa.field("source", pa.string()),
    pa.field("version", pa.string()),
    pa.field("locations", pa.list_(LOCATION)),
    pa.field("source_sha256", pa.string()),
    pa.field("license", pa.string()),
    pa.field("institution", pa.string()),
    pa.field("card_json", pa.string()),
    pa.field("embodiment", pa.string()),
    pa.field("embodiment_json", pa.string()),
    pa.field("robot_type", pa.string()),
    pa.field("attributes_json", pa.string()),
    pa.field("recipe_fingerprint", pa.string()),
    pa.field("wamloom_version", pa.string()),
    # meaning
    pa.field("instructions", pa.list_(INSTRUCTION)),
    pa.field("success", pa.bool_()),
    pa.field("segments", pa.list_(SEGMENT)),
    pa.field("measures", pa.list_(MEASURE)),
    pa.field("findings", pa.list_(FINDING)),
    # numbers
    pa.field("control_rate", pa.string()),
    pa.field("num_steps", pa.int64()),
    pa.field("duration_ns", pa.int64()),
    pa.field("streams", pa.list_(STREAM)),
    pa.field("views", pa.list_(VIEW)),
    pa.field("calibrations", pa.list_(CALIBRATION)),
    pa.field("signature", pa.binary()),  # of the motion, to find the same recording in other wrapping
    pa.field("row_sha256", pa.string()),  # our own hash over everything but locations and blobs
]

TILE = pa.struct([("slot", pa.string()), ("frame_ids", pa.large_list(pa.int64()))])

LATENT_FIELDS: list[pa.Field] = [
    pa.field("latent_id", pa.string(), nullable=False, metadata=PRIMARY_KEY),
    pa.field("episode_id", pa.string()),
    pa.field("slot", pa.string()),
    pa.field("encoder", pa.string()),
    pa.field("encoder_fingerprint", pa.string()),
    pa.field("views_json", pa.string()),
    pa.field("views_fingerprint", pa.string()),
    pa.field("rate", pa.string()),  # "native" or Hz
    pa.field("frame_ids", pa.large_list(pa.int64())),
    pa.field("tiles", pa.list_(TILE)),  # of a canvas: the frames of each view on it; else empty
    pa.field("times_ns", pa.large_list(pa.int64())),
    pa.field("start_ns", pa.int64()),
    pa.field("stop_ns", pa.int64()),
    pa.field("temporal_stride", pa.int32()),
    pa.field("leading_frames", pa.int32()),
    pa.field("axes", pa.string()),  # always LCHW
    pa.field("normalization", pa.string()),
    pa.field("sampling", pa.string()),  # mean | sample | deterministic
    pa.field("dtype", pa.string()),
    pa.field("shape", pa.list_(pa.int64())),
    pa.field("data", pa.large_binary()),
    pa.field("data_sha256", pa.string()),
    pa.field("row_sha256", pa.string()),
]

TEXT_FIELDS: list[pa.Field] = [
    pa.field("text_id", pa.string(), nullable=False, metadata=PRIMARY_KEY),
    pa.field("prompt", pa.string()),
    pa.field("prompt_sha256", pa.string()),
    pa.field("template", pa.string()),
    pa.field("encoder", pa.string()),
    pa.field("encoder_fingerprint", pa.string()),
    pa.field("length", pa.int32()),
    pa.field("mask", pa.list_(pa.bool_())),
    pa.field("dtype", pa.string()),
    pa.field("shape", pa.list_(pa.int64())),
    pa.field("data", pa.large_binary()),
    pa.field("data_sha256", pa.string()),
    pa.field("row_sha256", pa.string()),
]

BLOB_COLUMNS = tuple(prefix + slot for prefix in (BLOB_PREFIX, DEPTH_PREFIX) for slot in VIEW_SLOTS)

STAGED_EPISODES = pa.schema([*EPISODE_FIELDS, *(pa.field(name, pa.large_binary()) for name in BLOB_COLUMNS)])
"""Episodes on their way into the lake; there the video columns become Lance blobs."""
ADDED_COLUMNS = frozenset({"tiles"})
"""Columns that tables of earlier versions lack. Rows from then have none in them, and their hashes are without."""
LATENTS = pa.schema(LATENT_FIELDS)
TEXTS = pa.schema(TEXT_FIELDS)
