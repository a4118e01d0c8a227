"""The autoencoder of Wan 2.2 TI2V-5B (LingBot-VA, FastWAM, GigaWorld, Motus, Cosmos 3): causal, 4x in time, 16x in space.

48 channels. Models that fold latents 2x2 want heights and widths in multiples of 32: ``size_multiple = 32``.
"""

from pipelines.latent_models import LatentModel, Options
from pipelines.wan_latents import WAN22, load_wan


def load(weights: str | None, options: Options) -> LatentModel:
    """The encoder with the weights at ``weights``: a folder, or an id such as ``Wan-AI/Wan2.2-TI2V-5B-Diffusers``.

    Raises RecipeError for a wrong option, MissingFile where there are no weights, LayoutError where they are not of this
    model or damaged, FingerprintMismatch where they are not those that ``sha256`` pins.
    """
    return load_wan(WAN22, weights, options)
