"""The autoencoder of HunyuanVideo: 4x in time, 8x in space, 16 channels.

It normalizes over all frames, and takes clips of more than 16 frames in overlapping pieces that it blends, as the library
does by default: a latent depends on later frames, too, and latents of a prefix are not a prefix of the latents.
"""

import numpy as np

from pipelines.latent_models import GAUSSIAN, OF_CLIPS, LatentModel, Network, Options, checked_options, gaussian
from pipelines.latent_weights import find_model, load_autoencoder, scale_of

VERSION = 1
KIND = "AutoencoderKLHunyuanVideo"
SCALING_FACTOR = 0.476986
"""vae/config.json of hunyuanvideo-community/HunyuanVideo."""


def load(weights: str | None, options: Options) -> LatentModel:
    """The encoder with the weights at ``weights``: a folder, or an id such as ``hunyuanvideo-community/HunyuanVideo``.

    Raises RecipeError for a wrong option, MissingFile where there are no weights, LayoutError where they are not of this
    model or damaged, FingerprintMismatch where they are not those that ``sha256`` pins.
    """
    chosen = checked_options("hunyuan", options, {**OF_CLIPS, **GAUSSIAN})
    found = find_model("hunyuan", weights, KIND, chosen)
    channels = found.whole("latent_channels", 16)
    found.expect("spatial_compression_ratio", found.whole("spatial_compression_ratio", 8), 8)
    found.expect("temporal_compression_ratio", found.whole("temporal_compression_ratio", 4), 4)
    factor = found.number("scaling_factor", SCALING_FACTOR)
    model = load_autoencoder(KIND, found, chosen["dtype"])
    nothing = np.zeros(channels, np.float32)
    scale = scale_of(nothing, nothing + 1, factor, found.where)
    network = Network(
        model,
        lambda pixels: gaussian(model.encode(pixels).latent_dist),
        lambda latents: model.decode(latents).sample,
        channels,
        8,
        4,
    )
    return LatentModel("hunyuan", VERSION, network, scale, found, chosen, f"z * {factor}")
