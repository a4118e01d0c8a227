"""T5 as Cosmos Policy, Cosmos-Predict2 and mimic-video use it: [L, 1024] of t5-11b, zero beyond the prompt."""

from typing import Any

from pipelines import text_models
from pipelines.text_models import Family, Options, TransformerEncoder
from pipelines.weights import read_config

OPTIONS = dict(text_models.COMMON)


def _class() -> Any:
    from transformers import T5EncoderModel

    return T5EncoderModel


FAMILY = Family(
    "t5", "a T5 text encoder", ("t5",), _class, text_models.hidden_states, lambda config: int(config["d_model"])
)


def load(weights: str | None, options: Options) -> TransformerEncoder:
    """The encoder with the weights in the folder ``weights``, its ``text_encoder``, or of a hub id.

    Options and errors are those of ``umt5``; prompts are not cleaned (``clean = "none"``).
    """
    chosen = text_models.checked("t5", OPTIONS, options)
    folder = text_models.model_folder(weights, FAMILY)
    return TransformerEncoder(FAMILY, folder, chosen, read_config(folder))
