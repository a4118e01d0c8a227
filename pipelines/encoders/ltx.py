"""The autoencoder of LTX-Video (Genie Envisioner): causal, 8x in time, 32x in space, 128 channels.

Its decoder looks ahead, and in some versions adds noise, here always the same.
"""

import numpy as np

from pipelines.latent_models import GAUSSIAN, OF_CLIPS, LatentModel, Network, Options, checked_options, gaussian
from pipelines.latent_weights import find_model, load_autoencoder, read_vectors, scale_of
from schemas.errors import LayoutError

VERSION = 1
KIND = "AutoencoderKLLTXVideo"


def load(weights: str | None, options: Options) -> LatentModel:
    """The encoder with the weights at ``weights``: a folder, or an id such as ``Lightricks/LTX-Video``.

    Mean and deviation of each channel are vectors among the weights.

    Raises RecipeError for a wrong option, MissingFile where there are no weights, LayoutError where they are not of this
    model or damaged, FingerprintMismatch where they are not those that ``sha256`` pins.
    """
    import torch

    chosen = checked_options("ltx", options, {**OF_CLIPS, **GAUSSIAN})
    found = find_model("ltx", weights, KIND, chosen)
    channels = found.whole("latent_channels", 128)
    found.expect(
        "encoder_causal", found.config.get("encoder_causal", True), True, "latents of it depend on later frames"
    )
    factor = found.number("scaling_factor", 1.0)
    model = load_autoencoder(KIND, found, chosen["dtype"])
    spatial, temporal = model.spatial_compression_ratio, model.temporal_compression_ratio
    found.expect("its stride in space and time", (spatial, temporal), (32, 8))
    vectors = read_vectors(found, ("latents_mean", "latents_std"))
    if any(vector.shape != (channels,) or not np.isfinite(vector).all() for vector in vectors.values()):
        raise LayoutError(f"latents_mean or latents_std are not {channels} numbers", str(found.folder))
    scale = scale_of(vectors["latents_mean"], vectors["latents_std"], factor, str(found.folder))

    def decode(latents: torch.Tensor) -> torch.Tensor:
        # Time 0 is that of clean latents, and what the pipelines of the library decode at unless told otherwise.
        time = latents.new_zeros(1) if found.config.get("timestep_conditioning") else None
        devices = [latents.device] if latents.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(0)
            pixels: torch.Tensor = model.decode(latents, time).sample
        return pixels

    network = Network(
        model, lambda pixels: gaussian(model.encode(pixels).latent_dist), decode, channels, spatial, temporal
    )
    times = "" if factor == 1 else f" * {factor}"
    return LatentModel(
        "ltx", VERSION, network, scale, found, chosen, f"(z - latents_mean){times} / latents_std, per channel"
    )
