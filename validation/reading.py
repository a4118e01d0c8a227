"""The rules of what is noticed while a recording is read and its card applied: every name that a finding of a source, of what
sources share, or of ``pipelines.channels`` may carry, unless a check owns it (``empty_instruction``, ``undecodable_text``).

The findings are made where the thing is seen; this is the one place that says what their names mean.
"""

from schemas.findings import Rule, Severity

_INFO, _WARNING = Severity.INFO, Severity.WARNING

RULES = (
    # cards
    Rule("camera_not_in_card", _WARNING, "the card gives a camera no view slot; it is not stored"),
    Rule("language_not_in_card", _INFO, "the card does not list a language field; its texts are not stored"),
    Rule("missing_success", _WARNING, "the episode lacks the field that the card reads success from"),
    Rule("missing_depth", _INFO, "a depth camera that the card lists is not there"),
    Rule("recorded_rate_differs", _WARNING, "recorded times that the card does not use run at another rate"),
    Rule("rate_corrected", _INFO, "the card corrects the rate that the source declares"),
    # what is there although it should not be, or the other way round
    Rule("not_in_index", _WARNING, "the episode lies in the files and not in the index of the data set"),
    Rule("rows_not_in_index", _WARNING, "the table has rows behind the last episode of the index; they are not read"),
    Rule("declared_camera_without_files", _WARNING, "the index declares a camera of which there is no file"),
    Rule("camera_without_video", _INFO, "the annotation lists a camera and names no file for it"),
    Rule("missing_video", _WARNING, "there is no video of a camera that took part"),
    Rule("missing_pictures", _WARNING, "none of the pictures that an index names is there"),
    Rule("missing_metadata", _WARNING, "the metadata of the recording are missing"),
    Rule("unknown_cameras", _WARNING, "nothing says which cameras there were"),
    Rule("undeclared_column", _INFO, "the table has a column that the index does not declare; it is read"),
    Rule(
        "undeclared_feature", _WARNING, "the records have a feature that features.json does not declare; it is not read"
    ),
    Rule("unknown_task", _WARNING, "a row points to a task that the table of tasks does not have"),
    Rule("chunk_not_stored", _WARNING, "chunks of an array are not stored, and read as its fill value"),
    Rule("rows_behind_the_end", _WARNING, "arrays go on behind the end of the last episode; those rows are not read"),
    # contradictions
    Rule("flag_denies_picture", _WARNING, "a flag says that a camera has no picture, and it has"),
    Rule("last_step_not_marked", _INFO, "no step is marked as the last one"),
    Rule("dtype_not_as_declared", _WARNING, "a column is of another type than the index declares"),
    Rule("column_names", _WARNING, "there are more or fewer column names than columns"),
    Rule("length_mismatch", _WARNING, "the file is off by one about its own length"),
    Rule("container_rate", _WARNING, "a video plays at another rate than the data set declares"),
    Rule("frame_times_disagree", _WARNING, "rows name other frames of a video than the frame times say"),
    Rule("uneven_frame_times", _WARNING, "the container spaces the frames unevenly; they are read one a step"),
    Rule("bad_rate", _WARNING, "what stands for a rate is none"),
    Rule("cameras_disagree", _WARNING, "metadata and recording name different cameras for one place"),
    Rule("bad_camera_serial", _WARNING, "a serial number of a camera is none, or names two cameras"),
    Rule("success_disagrees", _WARNING, "the source says of success first one thing, then another; the first is taken"),
    Rule("compress_len_disagrees", _WARNING, "the sizes of the pictures are not those that the file tells"),
    Rule("printed_tensor", _WARNING, "texts are the printed form of tensors that hold the real ones"),
    Rule("several_metadata", _WARNING, "there is more than one file of metadata; the first is taken"),
    # files published beside a data set
    Rule("unmatched_annotation", _INFO, "a file published beside the data set has no entry for this recording"),
    Rule("bad_annotation", _WARNING, "an entry of a file published beside the data set is not what it should be"),
    Rule("keep_ranges_do_not_fit", _WARNING, "published keep-ranges reach beyond the recording; they are not used"),
    Rule("zero_intrinsics", _INFO, "published intrinsics of a camera are all zero; they are not taken"),
    Rule("keeps_nothing", _INFO, "published keep-ranges keep no step of the recording"),
    # damage that costs a part and not the episode
    Rule("damaged_tasks", _WARNING, "the table of tasks is damaged"),
    Rule("bad_metadata", _WARNING, "the metadata of the recording cannot be read"),
    Rule("metadata_path_outside", _WARNING, "a path of the metadata leads out of the data set; it is not followed"),
    Rule("no_step_clock", _WARNING, "the recorded times of the steps are missing or unusable; the rows are counted"),
    Rule("video_short", _WARNING, "a video has fewer frames than the recording rows; they pair from the first on"),
    Rule("video_one_frame_short", _INFO, "a video lacks the frame of the last row, as this recorder leaves it"),
    Rule("frames_held", _INFO, "frames are the one before again, since the camera was slower than the rows"),
    Rule("frame_after_step", _INFO, "frames were taken after the row that they stand beside began"),
    Rule("unknown_recorder_version", _INFO, "nobody says which version of the recorder wrote this"),
    # what is left out
    Rule("array_left_out", _WARNING, "an array has no place in an episode; it is not read"),
    Rule("attribute_left_out", _INFO, "a text is too long to be a fact of the episode; it is kept in the source only"),
    Rule("column_left_out", _WARNING, "a column cannot be read as numbers, text or pictures"),
    Rule("feature_left_out", _WARNING, "a feature cannot be read as numbers, text or pictures"),
    Rule("field_left_out", _WARNING, "a field is no list of numbers; it is not read"),
    Rule("field_seen_late", _WARNING, "a field has fewer rows than the recording, nobody knows which; it is left out"),
    Rule("next_obs_repeats", _INFO, "pictures of next_obs are those of obs one step later; only the last one is kept"),
    Rule("no_last_action", _INFO, "the last state has no action; the empty row is not one"),
    Rule("placeholder_left_out", _INFO, "an array is NaN throughout, the recorder's sign for an empty value"),
    Rule("side_video_left_out", _INFO, "a video lies beside pictures in the file itself; it is not read"),
    Rule("stereo_left_out", _INFO, "another file has the other eye as well; it is not read"),
    Rule("stereo_without_suffix", _INFO, "a video holds both eyes although it is not called so; the left one is shown"),
)
