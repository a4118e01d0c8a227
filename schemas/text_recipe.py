"""The recipe of ``wamloom texts``: which prompts are made of instructions, and how they are encoded and kept."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Step = Literal["strip", "spaces", "lower", "underscores", "newlines", "period"]
"""Done to an instruction before it goes into a template: white space around it left out; runs of white space become one
space; lower case; underscores become spaces; line ends become spaces; a full stop at the end unless there is one."""

TextDtype = Literal["float32", "float16", "bfloat16"]


class TextRecipe(BaseModel):
    """Choices of ``wamloom texts``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoder: str = "hashed"
    weights: str | None = None
    options: dict[str, int | float | str | bool] = {}
    """Passed to the encoder by name, such as ``length = 128``."""
    template: str = "plain"
    """A template by name, or a sentence with ``{instruction}`` in it."""
    steps: tuple[Step, ...] | None = None
    """What is done to an instruction before; None: what the template does."""
    fields: dict[str, str | int] = {}
    """Values of fields of the template that an episode does not give, such as ``idle_frames = 0``."""
    extra_prompts: tuple[str, ...] = ()
    """Prompts to encode besides, as they stand, such as a negative prompt. The empty prompt is always encoded."""
    storage: Literal["unpadded", "padded"] = "unpadded"
    """Only the tokens of the prompt, or all of ``length``; both are read alike."""
    dtype: TextDtype = "float32"
    unit_prompts: int = Field(default=256, gt=0)
    """Prompts per work unit, at most."""
    max_failed_fraction: float = Field(default=0.0, ge=0, le=1)

    @field_validator("template", "fields", "extra_prompts")
    @classmethod
    def _is_text(cls, value: Any) -> Any:
        """A command line of bytes that are no UTF-8 comes as halves of characters, which no table holds."""
        texts = [part for pair in value.items() for part in pair] if isinstance(value, dict) else value
        if isinstance(texts, str):
            texts = [texts]
        try:
            for text in texts:
                str(text).encode()
        except UnicodeEncodeError as error:
            raise ValueError("there are bytes in it that are no UTF-8 text") from error
        return value
