"""The continuous video tokenizer of Cosmos (Cosmos-Predict1): causal, 8x in time and space as published, 16 channels.

Cosmos-Predict2 and later have the autoencoder of Wan 2.1: ``wan21``. There is no distribution to draw from.
"""

import numpy as np

from pipelines.latent_models import OF_CLIPS, LatentModel, Network, Options, checked_options, gaussian
from pipelines.latent_weights import find_model, load_autoencoder, scale_of
from schemas.errors import LayoutError

VERSION = 1
KIND = "AutoencoderKLCosmos"


def load(weights: str | None, options: Options) -> LatentModel:
    """The encoder with the weights at ``weights``: a folder, or an id such as
    ``nvidia/Cosmos-1.0-Tokenizer-CV8x8x8``, in the form of diffusers.

    Published statistics are of each channel at each of the first 16 latent frames, so clips have at most 121 frames.

    Raises RecipeError for a wrong option, MissingFile where there are no weights, LayoutError where they are not of this
    model or damaged, FingerprintMismatch where they are not those that ``sha256`` pins.
    """
    chosen = checked_options("cosmos", options, OF_CLIPS)
    found = find_model("cosmos", weights, KIND, chosen)
    channels = found.whole("latent_channels", 16)
    temporal, spatial = found.whole("temporal_compression_ratio", 8), found.whole("spatial_compression_ratio", 8)
    if any(stride not in (4, 8, 16) for stride in (temporal, spatial)):
        raise LayoutError(f"compresses {temporal}x in time and {spatial}x in space, not 4, 8 or 16 times", found.where)
    model = load_autoencoder(KIND, found, chosen["dtype"])
    formula, scale = "z (no statistics in its configuration)", None
    # Taken from the model, where the library fills in those of CV8x8x8 if the configuration is silent.
    mean, std = model.config.latents_mean, model.config.latents_std
    if mean is not None and std is not None:
        if len(mean) != len(std) or not mean or len(mean) % channels:
            raise LayoutError(
                f"has {len(mean)} latents_mean and {len(std)} latents_std for {channels} channels", found.where
            )
        found.numbers("latents_mean", len(mean), mean)
        found.numbers("latents_std", len(std), std)
        grid = [np.asarray(values, np.float32).reshape(channels, -1) for values in (mean, std)]
        scale = scale_of(grid[0], grid[1], 1.0, found.where)
        formula = "(z - latents_mean) / latents_std, per channel and latent frame"
    network = Network(
        model,
        lambda pixels: gaussian(model.encode(pixels).latent_dist),
        lambda latents: model.decode(latents).sample,
        channels,
        spatial,
        temporal,
    )
    return LatentModel("cosmos", VERSION, network, scale, found, chosen, formula, unit_scale=scale is not None)
