"""Sentence transformers: one vector [1, D] per prompt, the mean of its tokens at length 1, or the tokens [L, D]."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipelines import text_models
from pipelines.text_models import Family, Options, TransformerEncoder
from pipelines.weights import read_config
from schemas.errors import LayoutError, RecipeError

if TYPE_CHECKING:
    import torch

POOLINGS = ("mean", "first", "tokens")
OPTIONS = {**text_models.COMMON, "length": 256, "pooling": POOLINGS[0], "normalize": True}


def _class() -> Any:
    from transformers import AutoModel

    return AutoModel


def _reading(pooling: str, normalize: bool) -> Callable[[Any, "torch.Tensor"], "torch.Tensor"]:
    def read(output: Any, mask: "torch.Tensor") -> "torch.Tensor":
        import torch

        states: torch.Tensor = output.last_hidden_state.float()
        if pooling == "mean":
            weight = mask[:, :, None].float()
            states = (states * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True)
        elif pooling == "first":
            states = states[:, :1]
        return torch.nn.functional.normalize(states, dim=-1) if normalize else states

    return read


def load(weights: str | None, options: Options) -> TransformerEncoder:
    """The encoder with the weights in the folder ``weights``, or of a hub id such as ``sentence-transformers/all-MiniLM-L6-v2``.

    Options and errors are those of ``umt5``, with ``length`` (256: tokens read of a prompt), ``pooling`` (``mean`` over the
    mask, ``first`` token, or ``tokens`` as they are) and ``normalize`` (vectors of length 1; for tokens each of them).
    """
    chosen = text_models.checked("sentence", OPTIONS, options)
    pooling = chosen["pooling"]
    if pooling not in POOLINGS:
        raise RecipeError(f"sentence cannot do pooling = {pooling!r}", hint=f"pooling: {', '.join(POOLINGS)}")
    if chosen["padding"] == "kept":
        raise RecipeError('sentence cannot do padding = "kept"', hint="its models are told where a prompt ends")
    family = Family(
        "sentence",
        "a text encoder that transformers knows",
        (),
        _class,
        _reading(pooling, chosen["normalize"]),
        lambda config: int(config["hidden_size"]),
        pooled=pooling != "tokens",
        optional="pooler.",
    )
    folder = text_models.model_folder(weights, family)
    config = read_config(folder)
    _check_type(str(config.get("model_type")), str(folder), family.what)
    return TransformerEncoder(family, folder, chosen, config)


def _check_type(model_type: str, where: str, what: str) -> None:
    """A type that the library does not have itself would come as code from the repository, which is never run."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    if model_type not in MODEL_MAPPING_NAMES:
        raise LayoutError(f"is of the type {model_type!r}", where, f"needed: {what}")
