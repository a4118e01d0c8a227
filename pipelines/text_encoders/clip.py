"""The text half of CLIP: its last hidden states [77, D] as the Stable Diffusion line uses them, or one vector [1, D].

Those models look at all 77 places, and so what stands behind the prompt is kept.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipelines import text_models
from pipelines.text_models import Family, Options, TransformerEncoder
from pipelines.weights import read_config
from schemas.errors import RecipeError

if TYPE_CHECKING:
    import torch

OUTPUTS = ("tokens", "pooled", "projected")
OPTIONS = {**text_models.COMMON, "length": 77, "padding": "kept", "output": OUTPUTS[0]}
_DEFAULTS = {"vocab_size": 49408, "max_position_embeddings": 77, "hidden_size": 512, "projection_dim": 512}
"""What a configuration that leaves them out means (``CLIPTextConfig``)."""


def _plain() -> Any:
    from transformers import CLIPTextModel

    return CLIPTextModel


def _projecting() -> Any:
    from transformers import CLIPTextModelWithProjection

    return CLIPTextModelWithProjection


def _vector(name: str) -> Callable[[Any, "torch.Tensor"], "torch.Tensor"]:
    def read(output: Any, _: "torch.Tensor") -> "torch.Tensor":
        vector: torch.Tensor = getattr(output, name)
        return vector[:, None]

    return read


def _width(key: str) -> Callable[[Mapping[str, Any]], int]:
    return lambda config: int(config[key])


TOKENS = Family(
    "clip", "a CLIP text encoder", ("clip", "clip_text_model"), _plain, text_models.hidden_states, _width("hidden_size")
)
FAMILIES = {
    "tokens": TOKENS,
    "pooled": replace(TOKENS, read=_vector("pooler_output"), pooled=True),
    "projected": replace(
        TOKENS, model_class=_projecting, read=_vector("text_embeds"), width=_width("projection_dim"), pooled=True
    ),
}


def load(weights: str | None, options: Options) -> TransformerEncoder:
    """The encoder with the weights in the folder ``weights``, its ``text_encoder``, or of a hub id; a whole CLIP will do.

    Options and errors are those of ``umt5``, with ``length`` (77), ``padding`` (kept) and ``output``: ``tokens`` [L, D],
    ``pooled`` [1, D] (the state of the end mark), ``projected`` [1, P] (that, in the space shared with pictures).
    """
    chosen = text_models.checked("clip", OPTIONS, options)
    if chosen["output"] not in OUTPUTS:
        raise RecipeError(f"clip cannot do output = {chosen['output']!r}", hint=f"output: {', '.join(OUTPUTS)}")
    family = FAMILIES[chosen["output"]]
    folder = text_models.model_folder(weights, family)
    config = read_config(folder)
    whole = {key: config[key] for key in ("projection_dim",) if key in config}
    text = {**whole, **config["text_config"]} if isinstance(config.get("text_config"), dict) else config
    return TransformerEncoder(family, folder, chosen, {**_DEFAULTS, **text, **whole})
