"""The autoencoder of Stable Video Diffusion (Ctrl-World, VPP): each frame by itself, 8x in space, 4 channels.

Its decoder sees neighboring frames. Ctrl-World stores drawn latents: ``sampling = "sample"``.
"""

import numpy as np

from pipelines.latent_models import (
    GAUSSIAN,
    OF_FRAMES,
    LatentModel,
    Network,
    Options,
    checked_options,
    frame_decoder,
    frame_encoder,
)
from pipelines.latent_weights import find_model, load_autoencoder, scale_of

VERSION = 1
KIND = "AutoencoderKLTemporalDecoder"
SCALING_FACTOR = 0.18215
"""Of Stable Diffusion's autoencoder, whose encoder this is: https://arxiv.org/abs/2112.10752, section 4.3.2."""
DECODED_AT_ONCE = 14
"""Frames that the decoder sees together: those of a clip of the model it was trained for."""


def load(weights: str | None, options: Options) -> LatentModel:
    """The encoder with the weights at ``weights``: a folder, or an id such as
    ``stabilityai/stable-video-diffusion-img2vid``.

    Raises RecipeError for a wrong option, MissingFile where there are no weights, LayoutError where they are not of this
    model or damaged, FingerprintMismatch where they are not those that ``sha256`` pins.
    """
    chosen = checked_options("svd", options, {**OF_FRAMES, **GAUSSIAN})
    found = find_model("svd", weights, KIND, chosen)
    channels = found.whole("latent_channels", 4)
    stride = 2 ** (len(found.items("block_out_channels", (64,))) - 1)
    found.expect("its spatial stride", stride, 8)
    factor = found.number("scaling_factor", SCALING_FACTOR)
    model = load_autoencoder(KIND, found, chosen["dtype"])

    nothing = np.zeros(channels, np.float32)
    scale = scale_of(nothing, nothing + 1, factor, found.where)
    network = Network(
        model,
        frame_encoder(model),
        frame_decoder(lambda images: model.decode(images, num_frames=len(images)), DECODED_AT_ONCE),
        channels,
        stride,
    )
    return LatentModel("svd", VERSION, network, scale, found, chosen, f"z * {factor}")
