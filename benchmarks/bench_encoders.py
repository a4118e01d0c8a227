"""Encoding: whole episodes of video with Wan's autoencoders, ours in batches with the next decoded meanwhile, against one by one.

Full-size networks of the published configurations with random weights, on a GPU where there is one; else tiny ones on the
CPU, which say nothing about speed on a GPU. Both decode the same MP4 clips, and theirs is what dataset scripts do: decode a
clip, ``vae.encode``, normalize, next. The last line of each table is the encoder alone, without video.
"""

import argparse
import io
import json
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from diffusers import AutoencoderKLWan

from benchmarks.side_by_side import compare, machine
from pipelines import registry
from pipelines.encoders import Encoder
from pipelines.wan_latents import WAN21, WAN22, WanShape

COMMON: dict[str, Any] = {"dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "temperal_downsample": [False, True, True]}
CONFIGS: dict[str, dict[str, Any]] = {
    # vae/config.json of Wan-AI/Wan2.1-T2V-1.3B-Diffusers
    "wan21": {**COMMON, "base_dim": 96, "z_dim": 16},
    # vae/config.json of Wan-AI/Wan2.2-TI2V-5B-Diffusers
    "wan22": {
        **COMMON, "base_dim": 160, "decoder_base_dim": 256, "z_dim": 48, "is_residual": True, "patch_size": 2,
        "in_channels": 12, "out_channels": 12, "scale_factor_spatial": 16,
    },
}  # fmt: skip
SHAPES = {"wan21": WAN21, "wan22": WAN22}


def save_random(name: str, folder: Path, tiny: bool) -> None:
    """Saves the network of an encoder with random weights."""
    config = dict(CONFIGS[name])
    if tiny:
        config |= {"base_dim": 8, "decoder_base_dim": 8, "num_res_blocks": 1, "dim_mult": [1, 1, 1, 1]}
    shape = SHAPES[name]
    torch.manual_seed(0)
    AutoencoderKLWan(**config, latents_mean=list(shape.mean), latents_std=list(shape.std)).save_pretrained(folder)


def mp4(num_frames: int, height: int, width: int, seed: int) -> bytes:
    """A clip of a moving pattern, as H.264."""
    time, y, x = np.ogrid[:num_frames, :height, :width]
    waves = np.stack([np.sin((x + (color + 1) * time + seed) / 17 + y / (15 + color)) for color in range(3)], axis=-1)
    frames = np.clip(127 + 90 * waves, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=15, options={"g": "12", "crf": "23"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def decoded(data: bytes) -> np.ndarray:
    """uint8 RGB [F, H, W, 3]."""
    with av.open(io.BytesIO(data)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def batches(clips: list[bytes], size: int) -> Iterator[np.ndarray]:
    """[B, F, H, W, 3] in turn, each decoded while the one before is in use."""
    parts = [clips[start : start + size] for start in range(0, len(clips), size)]

    def decode(part: list[bytes]) -> np.ndarray:
        return np.stack([decoded(data) for data in part])

    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(decode, parts[0])
        for part in parts[1:]:
            ready, ahead = ahead.result(), pool.submit(decode, part)
            yield ready
        yield ahead.result()


def one_by_one(model: Any, shape: WanShape, clip: np.ndarray) -> np.ndarray:
    """float32 [L, C, h, w], as scripts around the library make it."""
    pixels = torch.from_numpy(clip)[None].to(model.device).permute(0, 4, 1, 2, 3).to(model.dtype) / 127.5 - 1
    mean, std = (torch.tensor(values, device=model.device).view(1, -1, 1, 1, 1) for values in (shape.mean, shape.std))
    with torch.no_grad():
        z = (model.encode(pixels).latent_dist.mode().float() - mean) / std
    return z[0].transpose(0, 1).cpu().numpy()


def measure(name: str, size: tuple[int, int], chosen: argparse.Namespace, folder: Path) -> None:
    """Prints both ways, side by side, for one encoder and size of frames."""
    height, width = size
    options = {"device": chosen.device, "dtype": chosen.dtype, "batch_clips": chosen.batch, "threads": chosen.threads}
    encoder: Encoder = registry.load("encoders", name).load(str(folder), options)
    dtype, shape = getattr(torch, chosen.dtype), SHAPES[name]
    model = AutoencoderKLWan.from_pretrained(folder, torch_dtype=dtype, low_cpu_mem_usage=False).to(chosen.device)
    clips = [mp4(chosen.frames, height, width, seed) for seed in range(chosen.clips)]
    frames = [decoded(data) for data in clips]
    stacked = np.stack(frames)

    def ours() -> None:
        for batch in batches(clips, chosen.batch):
            encoder.encode_clips(batch)

    def theirs() -> None:
        for data in clips:
            one_by_one(model, shape, decoded(data))

    def ours_alone() -> None:
        encoder.encode_clips(stacked)

    def theirs_alone() -> None:
        for clip in frames:
            one_by_one(model, shape, clip)

    off = np.abs(encoder.encode(frames[0]) - one_by_one(model, shape, frames[0])).max()
    units = chosen.clips * chosen.frames
    title = f"{name}, {chosen.clips} clips of {chosen.frames} frames {height}x{width}, {chosen.dtype}, {chosen.device}"
    print(f"\nlargest difference of latents: {off:.2g}")
    pair = ((f"wamloom, batches of {chosen.batch}, decoding ahead", ours), ("diffusers, one clip at a time", theirs))
    compare(title, *pair, units, "frame", chosen.rounds, cpu=False)
    alone = ((f"wamloom, batches of {chosen.batch}", ours_alone), ("diffusers, one clip at a time", theirs_alone))
    compare(f"{name}, without video", *alone, units, "frame", chosen.rounds, cpu=False)


def main() -> None:
    """Prints the comparison; the defaults suit what is there."""
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--encoders", nargs="+", choices=sorted(CONFIGS), default=sorted(CONFIGS))
    parser.add_argument(
        "--sizes", nargs="+", default=["256x256", "176x320"] if gpu else ["64x64", "64x96"], metavar="HxW"
    )
    parser.add_argument("--device", default="cuda" if gpu else "cpu")
    parser.add_argument("--dtype", default="bfloat16" if gpu else "float32")
    parser.add_argument("--clips", type=int, default=32 if gpu else 8)
    parser.add_argument("--frames", type=int, default=17)
    parser.add_argument("--batch", type=int, default=8 if gpu else 4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--full", action="store_true", default=gpu, help="full-size networks, on the CPU too")
    chosen = parser.parse_args()
    print(machine())
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name() if gpu else 'no GPU'}")
    with tempfile.TemporaryDirectory() as temporary:
        for name in chosen.encoders:
            folder = Path(temporary) / name
            save_random(name, folder, tiny=not chosen.full)
            parameters = json.dumps(sum(p.stat().st_size for p in folder.glob("*.safetensors")) // 4)
            print(f"\n{name}: {parameters} parameters")
            for size in chosen.sizes:
                height, _, width = size.partition("x")
                measure(name, (int(height), int(width)), chosen, folder)


if __name__ == "__main__":
    main()
