"""The autoencoder of CogVideoX: 4x in time, 8x in space, 16 channels.

It works on groups of eight frames and normalizes over each: a latent depends on later frames of its group, too, and what is
over of a clip joins the first group. So latents of a prefix are not a prefix of the latents.
"""

import numpy as np

from pipelines.latent_models import GAUSSIAN, OF_CLIPS, LatentModel, Network, Options, checked_options, gaussian
from pipelines.latent_weights import find_model, load_autoencoder, scale_of

VERSION = 1
KIND = "AutoencoderKLCogVideoX"


def load(weights: str | None, options: Options) -> LatentModel:
    """The encoder with the weights at ``weights``: a folder, or an id such as ``THUDM/CogVideoX-2b``.

    The scale is the ``scaling_factor`` of its configuration: 1.15258426 for the model of 2b, 0.7 for that of 5b.

    Raises RecipeError for a wrong option, MissingFile where there are no weights, LayoutError where they are not of this
    model or damaged, FingerprintMismatch where they are not those that ``sha256`` pins.
    """
    import torch

    chosen = checked_options("cogvideox", options, {**OF_CLIPS, **GAUSSIAN})
    found = find_model("cogvideox", weights, KIND, chosen)
    channels = found.whole("latent_channels", 16)
    stride = 2 ** (len(found.items("block_out_channels", (128, 256, 256, 512))) - 1)
    found.expect("its spatial stride", stride, 8)
    found.expect("temporal_compression_ratio", found.number("temporal_compression_ratio", 4), 4)
    factor = found.number("scaling_factor", None)
    model = load_autoencoder(KIND, found, chosen["dtype"])
    nothing = np.zeros(channels, np.float32)
    scale = scale_of(nothing, nothing + 1, factor, found.where)

    def decode(latents: torch.Tensor) -> torch.Tensor:
        # The decoder knows a leading frame by the odd number of latents; an even one gets a copy of the first in front.
        spare = 1 - latents.shape[2] % 2
        pixels: torch.Tensor = model.decode(torch.cat([latents[:, :, :spare], latents], dim=2)).sample
        return pixels[:, :, 4 * spare :]

    network = Network(model, lambda pixels: gaussian(model.encode(pixels).latent_dist), decode, channels, stride, 4)
    return LatentModel("cogvideox", VERSION, network, scale, found, chosen, f"z * {factor}")
