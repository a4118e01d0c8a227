"""Opens the HDF5 files with h5py as Cosmos Policy does; its pickle is not opened, since that runs what is in it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def problems(folder: Path, expected: Mapping[str, int]) -> tuple[list[str], int]:
    """Every array whole, and whether every instruction has an embedding in the safetensors beside the pickle."""
    import h5py
    from safetensors import safe_open

    found: list[str] = []
    counts = {"samples": 0, "frames": 0, "episodes": 0}
    with safe_open(str(folder / "t5_embeddings.safetensors"), "np") as texts:
        known = set(json.loads(texts.metadata()["wamloom"]).values())
        shapes = {tuple(texts.get_slice(key).get_shape()) for key in texts.keys()}  # noqa: SIM118 - no mapping
    if shapes - {(1, 512, 1024)}:
        found.append(f"embeddings have the shapes {sorted(shapes)}")
    for path in sorted(folder.rglob("*.hdf5")):
        with h5py.File(path) as file:
            demos: list[tuple[Any, Any, str]] = []
            if "data" in file:
                for key in sorted(file["data"], key=lambda name: int(name.split("_")[1])):
                    demo: Any = file["data"][key]
                    demos.append((demo, demo["obs"], " ".join(path.name.removesuffix("_demo.hdf5").split("_"))))
            else:
                demos.append((file, file, str(file.attrs["task_description"])))
            for demo, pictures, command in demos:
                rows = len(demo["actions"][:])
                shown = [one[:] for one in pictures.values() if isinstance(one, h5py.Dataset) and one.ndim == 4]
                if command not in known:
                    found.append(f"{path.name}: {command!r} has no embedding")
                if any(len(one) != rows for one in shown):
                    found.append(f"{path.name}: pictures and actions are of different lengths")
                counts["samples"] += rows
                counts["frames"] += sum(len(one) for one in shown)
                counts["episodes"] += 1
    for what, number in counts.items():
        if number != expected[what]:
            found.append(f"h5py finds {number} {what}, the manifest says {expected[what]}")
    return found, counts["samples"]
