"""Opens RLDS sets with tensorflow-datasets, which finds the shards and decodes the records; their framing is read by us,
since TensorFlow, which the trainers read it with, is not installed."""

from collections.abc import Mapping
from pathlib import Path

from pipelines.tfrecord import read_payload, scan_shard

_MAX_BYTES = (1 << 31) - 1


def problems(folder: Path, expected: Mapping[str, int]) -> tuple[list[str], int]:
    """Decodes every record of every split by the features of the set, pictures included."""
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(str(folder / "1.0.0"))
    found: list[str] = []
    episodes = steps = pictures = 0
    for name, split in builder.info.splits.items():
        records = 0
        for file in split.filepaths:
            path = Path(file)
            for record in scan_shard(path)[0]:
                payload = read_payload(path, record, _MAX_BYTES, file)
                episode = builder.info.features.deserialize_example_np(payload)
                marks = [(bool(step["is_first"]), bool(step["is_last"])) for step in episode["steps"]]
                if marks != [(at == 0, at == len(marks) - 1) for at in range(len(marks))]:
                    found.append(f"record {records} of {path.name} is not marked from its first to its last step")
                shown = (step.get("observation", {}).values() for step in episode["steps"])
                pictures += sum(value.ndim == 3 for values in shown for value in values)
                steps += len(marks)
                records += 1
        if records != split.num_examples:
            found.append(f"{name} has {records} records, tensorflow-datasets expects {split.num_examples}")
        episodes += records
    for what, number in (("episodes", episodes), ("samples", steps), ("frames", pictures)):
        if number != expected[what]:
            found.append(f"tensorflow-datasets finds {number} {what}, the manifest says {expected[what]}")
    return found, steps
