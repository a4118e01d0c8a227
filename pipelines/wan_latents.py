"""Wan's autoencoder in both of its shapes: what wan21 and wan22 share, with the constants of their latents.

It is causal in time: the first frame alone, then groups of four, each seeing what came before through caches that
the library clears before and after every call, and that hold every member of a batch apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.latent_models import GAUSSIAN, OF_CLIPS, LatentModel, Network, Options, checked_options, gaussian
from pipelines.latent_weights import find_model, load_autoencoder, scale_of

KIND = "AutoencoderKLWan"
TEMPORAL_STRIDE = 4


@dataclass(frozen=True, slots=True)
class WanShape:
    """One of the two published autoencoders."""

    encoder: str
    version: int
    patch: int
    """Pixels that are folded into channels before the network; 1 for none."""
    spatial_stride: int
    published: str
    mean: Sequence[float]
    """Of the latents, per channel."""
    std: Sequence[float]
    other: str
    """Name of the encoder for the other shape."""


# fmt: off
WAN21 = WanShape("wan21", 1, 1, 8, "Wan 2.1", (
    # vae/config.json of Wan-AI/Wan2.1-T2V-1.3B-Diffusers, as in wan/modules/vae.py of the Wan2.1 repository
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
), (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
), "wan22")
WAN22 = WanShape("wan22", 1, 2, 16, "Wan 2.2", (
    # vae/config.json of Wan-AI/Wan2.2-TI2V-5B-Diffusers, as in wan/modules/vae2_2.py of the Wan2.2 repository
    -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813, 0.0891,
    0.1570, -0.0098, 0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502,
    -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230, -0.0313, -0.1649, 0.0117, 0.0723,
    -0.2839, -0.2083, -0.0520, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667,
), (
    0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901,
    0.6885, 0.6165, 0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
    0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944,
    0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
), "wan21")
# fmt: on


def load_wan(shape: WanShape, weights: str | None, options: Options) -> LatentModel:
    """The encoder of ``shape`` with the weights at ``weights``; what it raises, ``wan21.load`` says."""
    chosen = checked_options(shape.encoder, options, {**OF_CLIPS, **GAUSSIAN})
    found = find_model(shape.encoder, weights, KIND, chosen)
    patch = found.whole("patch_size", 1)
    found.expect("patch_size", patch, shape.patch, f"name the encoder {shape.other}")
    stride = patch * 2 ** (len(found.items("dim_mult", (1, 2, 4, 4))) - 1)
    found.expect("its spatial stride", stride, shape.spatial_stride)
    # The library's loop takes four frames at a time, whatever the configuration says.
    found.expect("its temporal stride", 2 ** found.items("temperal_downsample", (False, True, True)).count(True), 4)
    found.expect("scale_factor_temporal", found.whole("scale_factor_temporal", 4), 4)
    found.expect("scale_factor_spatial", found.whole("scale_factor_spatial", stride), stride)
    channels = found.whole("z_dim", 16)
    published = channels == len(shape.mean)
    mean = found.numbers("latents_mean", channels, shape.mean if published else None)
    std = found.numbers("latents_std", channels, shape.std if published else None)
    same = published and np.allclose(mean, shape.mean, atol=1e-4) and np.allclose(std, shape.std, atol=1e-4)
    whose = f"of {shape.published}" if same else f"of its own configuration, other than those of {shape.published}"
    model = load_autoencoder(KIND, found, chosen["dtype"])
    network = Network(
        model,
        lambda pixels: gaussian(model.encode(pixels).latent_dist),
        lambda latents: model.decode(latents).sample,
        channels,
        shape.spatial_stride,
        TEMPORAL_STRIDE,
    )
    return LatentModel(
        shape.encoder,
        shape.version,
        network,
        scale_of(mean, std, 1.0, found.where),
        found,
        chosen,
        f"(z - latents_mean) / latents_std, per channel, {whose}",
    )
