"""Writes simulated episodes as a Zarr replay buffer (Zarr 2), the folder that diffusion-policy and UMI train from.

Such a buffer has no place for language, success or a rate; it holds numbers and pictures only.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipelines.simulate import SimulatedEpisode


def write(episodes: Sequence[SimulatedEpisode], folder: Path) -> None:
    """Writes the buffer into ``folder``, which must be empty or absent; all episodes are of one robot."""
    import zarr

    root = zarr.create_group(str(folder), zarr_format=2, overwrite=True)
    data, meta = root.create_group("data"), root.create_group("meta")
    ends = np.cumsum([episode.num_steps for episode in episodes])
    total = int(ends[-1])

    def add(group: "zarr.Group", name: str, values: np.ndarray) -> None:
        array = group.create_array(name, shape=values.shape, chunks=values.shape, dtype=values.dtype)
        array[:] = values

    add(meta, "episode_ends", ends.astype(np.int64))
    add(data, "state", np.concatenate([episode.proprio for episode in episodes]))
    add(data, "action", np.concatenate([episode.action for episode in episodes]))
    for number, camera in enumerate(episodes[0].robot.cameras):
        shape = (camera.height_px, camera.width_px, 3)
        # a chunk is a frame, as in UMI, so that a frame can be read alone; one that is all black is written like any other
        pictures = data.create_array(
            f"camera{number}_rgb",
            shape=(total, *shape),
            chunks=(1, *shape),
            dtype=np.uint8,
            config={"write_empty_chunks": True},
        )
        frames = (frame for episode in episodes for frame in episode.frames(camera.slot))
        for row, frame in zip(range(total), frames, strict=True):
            pictures[row] = frame
