"""Writes simulated episodes as a robomimic file: one HDF5 file, a demonstration per episode, raw pictures."""

import json
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from pipelines.simulate import SimulatedEpisode

FILE = "demo.hdf5"


def write(episodes: Sequence[SimulatedEpisode], folder: Path) -> None:
    """Writes ``demo.hdf5`` into ``folder``, which must be empty or absent; all episodes are of one robot.

    As robocasa does, each demonstration carries its instruction in ``ep_meta``; as LIBERO does, the last reward says success.
    """
    robot = episodes[0].robot
    folder.mkdir(parents=True, exist_ok=True)
    environment = {
        "env_name": "PickAndPlace",
        "type": 1,
        "env_kwargs": {"robots": [robot.name], "control_freq": float(robot.control_rate)},
    }
    with h5py.File(folder / FILE, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps(environment)
        data.attrs["total"] = sum(episode.num_steps for episode in episodes)
        for index, episode in enumerate(episodes):
            demo = data.create_group(f"demo_{index}")
            demo.attrs["num_samples"] = episode.num_steps
            demo.attrs["ep_meta"] = json.dumps({"lang": episode.instruction})
            last = np.arange(episode.num_steps) == episode.num_steps - 1
            demo["actions"] = episode.action
            demo["dones"] = last.astype(np.uint8)
            demo["rewards"] = (last & episode.success).astype(np.float32)
            obs = demo.create_group("obs")
            obs["state"] = episode.proprio
            for camera in robot.cameras:
                shape = (len(episode.frame_numbers), camera.height_px, camera.width_px, 3)
                pictures = obs.create_dataset(
                    f"{camera.slot}_image",
                    shape,
                    np.uint8,
                    chunks=(1, *shape[1:]),
                    compression="gzip",
                    compression_opts=1,
                )
                for frame, pixels in enumerate(episode.frames(camera.slot)):
                    pictures[frame] = pixels
        names = [f"demo_{index}".encode() for index in range(len(episodes))]
        file.create_group("mask")["train"] = np.array(names)
