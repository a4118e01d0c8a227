"""The autoencoder of Wan 2.1 (DreamZero, Cosmos Policy, Cosmos-Predict2, DiT4DiT, mimic-video): causal, 4x in time, 8x in space.

16 channels. Models that fold latents 2x2 want heights and widths in multiples of 16: ``size_multiple = 16``.
"""

from pipelines.latent_models import LatentModel, Options
from pipelines.wan_latents import WAN21, load_wan


def load(weights: str | None, options: Options) -> LatentModel:
    """The encoder with the weights at ``weights``: a folder, or an id such as ``Wan-AI/Wan2.1-T2V-1.3B-Diffusers``.

    Raises RecipeError for a wrong option, MissingFile where there are no weights, LayoutError where they are not of this
    model or damaged, FingerprintMismatch where they are not those that ``sha256`` pins.
    """
    return load_wan(WAN21, weights, options)
