"""The autoencoder of Stable Diffusion XL and its kin (UWM, IRASim): each frame by itself, 8x in space, 4 channels or more.

Any ``AutoencoderKL`` that says its scale is taken, such as that of Stable Diffusion 1.5. In float16 the one of SDXL overflows.
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
KIND = "AutoencoderKL"


def load(weights: str | None, options: Options) -> LatentModel:
    """The encoder with the weights at ``weights``: a folder, or an id such as ``stabilityai/sdxl-vae``.

    The scale is the ``scaling_factor`` of its configuration (0.13025 in SDXL's), with ``shift_factor`` or ``latents_mean``
    and ``latents_std`` where it has them; a configuration without one is refused, since the library would take that of an
    older model (0.18215).

    Raises RecipeError for a wrong option, MissingFile where there are no weights, LayoutError where they are not of this
    model or damaged, FingerprintMismatch where they are not those that ``sha256`` pins.
    """
    chosen = checked_options("sdxl", options, {**OF_FRAMES, **GAUSSIAN})
    found = find_model("sdxl", weights, KIND, chosen)
    channels = found.whole("latent_channels", 4)
    stride = 2 ** (len(found.items("block_out_channels", (64,))) - 1)
    found.expect("its spatial stride", stride, 8)
    factor = found.number("scaling_factor", None)
    shift = found.number("shift_factor", 0.0)
    mean = found.numbers("latents_mean", channels, [shift] * channels)
    std = found.numbers("latents_std", channels, [1.0] * channels)
    model = load_autoencoder(KIND, found, chosen["dtype"])

    formula = f"z * {factor}"
    if found.config.get("latents_mean") is not None or found.config.get("latents_std") is not None:
        formula = f"(z - latents_mean) * {factor} / latents_std, per channel"
    elif np.any(mean):
        formula = f"(z - {shift}) * {factor}"
    scale = scale_of(mean, std, factor, found.where)
    network = Network(
        model, frame_encoder(model), frame_decoder(model.decode, chosen["batch_frames"]), channels, stride
    )
    return LatentModel("sdxl", VERSION, network, scale, found, chosen, formula)
