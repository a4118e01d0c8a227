"""umT5 as Wan uses it (LingBot-VA, FastWAM, GigaWorld, Motus, DreamZero): [L, 4096] of umt5-xxl, zero beyond the prompt."""

from typing import Any

from pipelines import text_models
from pipelines.text_models import Family, Options, TransformerEncoder
from pipelines.weights import read_config

OPTIONS = {**text_models.COMMON, "clean": "wan"}


def _class() -> Any:
    from transformers import UMT5EncoderModel

    return UMT5EncoderModel


FAMILY = Family(
    "umt5", "a umT5 text encoder", ("umt5",), _class, text_models.hidden_states, lambda config: int(config["d_model"])
)


def load(weights: str | None, options: Options) -> TransformerEncoder:
    """The encoder with the weights in the folder ``weights``, its ``text_encoder``, or of a hub id.

    Options: ``length`` (512), ``dtype`` to compute in (float32, bfloat16, float16), ``device`` (auto, cpu, cuda), ``batch`` (8)
    and ``threads`` (1), ``sha256`` to pin the weights, ``clean`` (wan, none), ``padding`` (zero, kept), ``tokenizer`` (a folder).

    Raises RecipeError for a wrong option, MissingFile where weights or vocabulary are absent, LayoutError where they are of
    something else, FingerprintMismatch where ``sha256`` differs.
    """
    chosen = text_models.checked("umt5", OPTIONS, options)
    folder = text_models.model_folder(weights, FAMILY)
    return TransformerEncoder(FAMILY, folder, chosen, read_config(folder))
