"""Writes simulated episodes as ALOHA files: one HDF5 file per episode, pictures as JPEG in rows padded with zeros."""

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import simplejpeg

from pipelines.simulate import SimulatedEpisode

_JPEG_QUALITY = 95


def write(episodes: Sequence[SimulatedEpisode], folder: Path) -> None:
    """Writes ``episode_N.hdf5`` into ``folder``, which must be empty or absent; all episodes are of one robot.

    As in ALOHA's own compressed files, the encoder took the pictures for BGR, so that red and blue come out swapped for
    whoever decodes them as JPEG says. ``reward`` and ``language_instruction`` are additions, which others make too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for index, episode in enumerate(episodes):
        with h5py.File(folder / f"episode_{index}.hdf5", "w") as file:
            file.attrs["sim"] = True
            file.attrs["compress"] = True
            file.attrs["language_instruction"] = episode.instruction
            last = np.arange(episode.num_steps) == episode.num_steps - 1
            file["action"] = episode.action
            file["reward"] = (last & episode.success).astype(np.float32)
            observations = file.create_group("observations")
            observations["qpos"] = episode.proprio
            images = observations.create_group("images")
            lengths = []
            for slot in sorted(camera.slot for camera in episode.robot.cameras):
                encoded = [
                    simplejpeg.encode_jpeg(pixels, _JPEG_QUALITY, colorspace="BGR", colorsubsampling="420")
                    for pixels in episode.frames(slot)
                ]
                padded: np.ndarray = np.zeros((len(encoded), max(map(len, encoded))), np.uint8)
                for row, image in zip(padded, encoded, strict=True):
                    row[: len(image)] = np.frombuffer(image, np.uint8)
                images[slot] = padded
                lengths.append([len(image) for image in encoded])
            file["compress_len"] = np.array(lengths, np.float32)
