"""Tiny models of the classes that encoders read, with random weights: a few channels, made in a second, saved as published."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipelines.wan_latents import WAN22

DOWN, UP = ["DownEncoderBlock2D"] * 4, ["UpDecoderBlock2D"] * 4
WAN: dict[str, Any] = {"dim_mult": [1, 1, 1, 1], "num_res_blocks": 1, "temperal_downsample": [False, True, True]}


def _wan21() -> Any:
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan(base_dim=4, z_dim=16, **WAN)


def _wan22() -> Any:
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan(
        base_dim=4,
        decoder_base_dim=4,
        z_dim=48,
        **WAN,
        latents_mean=list(WAN22.mean),
        latents_std=list(WAN22.std),
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
    )


def _svd() -> Any:
    from diffusers import AutoencoderKLTemporalDecoder

    return AutoencoderKLTemporalDecoder(down_block_types=DOWN, block_out_channels=[32] * 4)


def _sdxl() -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=DOWN, up_block_types=UP, block_out_channels=[8] * 4, norm_num_groups=4, scaling_factor=0.13025
    )


def _cosmos() -> Any:
    from diffusers import AutoencoderKLCosmos

    return AutoencoderKLCosmos(
        latent_channels=16,
        encoder_block_out_channels=(8, 8, 8, 8),
        decode_block_out_channels=(8, 8, 8, 8),
        attention_resolutions=(8,),
        resolution=32,
        num_layers=1,
    )


def _ltx() -> Any:
    from diffusers import AutoencoderKLLTXVideo

    model = AutoencoderKLLTXVideo(
        latent_channels=128,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        decoder_inject_noise=(True, True, False, False, False),
        timestep_conditioning=True,
    )
    model.latents_mean += torch.linspace(-0.1, 0.1, 128)
    model.latents_std *= torch.linspace(0.5, 1.5, 128)
    return model


def _cogvideox() -> Any:
    from diffusers import AutoencoderKLCogVideoX

    return AutoencoderKLCogVideoX(block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4)


def _hunyuan() -> Any:
    from diffusers import AutoencoderKLHunyuanVideo

    return AutoencoderKLHunyuanVideo(block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4)


def _vjepa2() -> Any:
    from transformers import VJEPA2Config, VJEPA2Model

    config = VJEPA2Config(
        crop_size=32,
        frames_per_clip=8,
        hidden_size=48,
        num_attention_heads=2,
        num_hidden_layers=2,
        pred_hidden_size=24,
        pred_num_attention_heads=2,
        pred_num_hidden_layers=1,
    )
    return VJEPA2Model(config)


MAKERS: dict[str, Callable[[], Any]] = {
    "cogvideox": _cogvideox,
    "cosmos": _cosmos,
    "hunyuan": _hunyuan,
    "ltx": _ltx,
    "sdxl": _sdxl,
    "svd": _svd,
    "vjepa2": _vjepa2,
    "wan21": _wan21,
    "wan22": _wan22,
}


def make(name: str, folder: Path) -> Path:
    """Saves a tiny model for the encoder ``name`` in ``folder``, the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = MAKERS[name]()
        # The libraries begin biases and gates with zeros, behind which a fault would hide.
        with torch.no_grad():
            for value in model.parameters():
                value.add_(torch.randn_like(value) * 0.02)
        model.save_pretrained(folder)
    return folder


def frames(num_frames: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 RGB [F, H, W, 3]: a moving pattern with some noise."""
    time, y, x = np.ogrid[:num_frames, :height, :width]
    waves = np.stack([np.sin((x + (color + 1) * time + seed) / 7 + y / (5 + color)) for color in range(3)], axis=-1)
    noise = np.random.default_rng(seed).normal(0, 12, waves.shape)
    return np.clip(127 + 90 * waves + noise, 0, 255).astype(np.uint8)
