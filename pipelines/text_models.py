"""What text encoders of the transformers library have alike: weights and vocabulary from a folder, prompts in batches.

Only safetensors, JSON and ``tokenizer.json`` are read, and no code from a repository. The model itself is opened when the first
prompt is encoded, so that planning a run costs its fingerprint and not its memory.
"""

import contextlib
import html
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.storage import file_sha256
from pipelines.weights import MAX_CONFIG_BYTES, read_config, weights_fingerprint, weights_folder
from schemas.errors import LayoutError, MissingFile, RecipeError
from schemas.fingerprint import fingerprint

if TYPE_CHECKING:
    import torch

VERSION = 1
Options = Mapping[str, int | float | str | bool]
COMMON: dict[str, Any] = {
    "length": 512,
    "dtype": "float32",
    "device": "auto",
    "batch": 8,
    "threads": 1,
    "sha256": "",
    "clean": "none",
    "padding": "zero",
    "tokenizer": "",
}
"""Options of every one of these encoders, with their defaults."""
CHOICES: dict[str, tuple[str, ...]] = {
    "dtype": ("float32", "bfloat16", "float16"),
    "clean": ("none", "wan"),
    "padding": ("zero", "kept"),
}
_CHANGE_VALUES = ("dtype", "clean", "padding", "output", "pooling", "normalize")
"""Options that are part of an encoder's fingerprint; its length is a column of its own."""
TOKENIZER = "tokenizer.json"
TOKENIZER_FOLDER = "tokenizer"
MAX_TOKENIZER_BYTES = 1 << 28
_BAD_MODEL = (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError)
"""What transformers raises for folders that do not hold what the configuration says."""
AGAIN = "fetch the weights again, or name the encoder they are of"


def clean_as_wan(prompt: str) -> str:
    """``prompt`` as Wan's pipelines write it: HTML entities undone twice, white space collapsed and stripped.

    They first mend it with ``ftfy`` where that is installed. We never do, so that an embedding does not depend on it; of
    printable ASCII ftfy changes nothing, and of other letters mostly quotation marks. (``clean_prompt`` of lerobot's lingbot_va
    does the same.)
    """
    return re.sub(r"\s+", " ", html.unescape(html.unescape(prompt)).strip()).strip()


def checked(name: str, defaults: Mapping[str, Any], options: Options) -> dict[str, Any]:
    """``defaults`` with ``options`` in their place. Raises RecipeError for an unknown or unfit one."""
    unknown = sorted(set(options) - set(defaults))
    if unknown:
        raise RecipeError(f"{name} does not know the option {unknown[0]!r}", hint=f"its options: {', '.join(defaults)}")
    chosen: dict[str, Any] = {**defaults, **options}
    for key, default in defaults.items():
        value = chosen[key]
        if type(value) is not type(default) or (type(value) is int and value < 1):
            raise RecipeError(f"{name} cannot do {key} = {value!r}", hint=f"such as {key} = {json.dumps(default)}")
        if key in CHOICES and value not in CHOICES[key]:
            raise RecipeError(f"{name} cannot do {key} = {value!r}", hint=f"{key}: {', '.join(CHOICES[key])}")
    return chosen


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A ``tokenizer.json``, with what pads its prompts."""

    tokenizer: Any
    """``tokenizers.Tokenizer``."""
    pad_id: int
    fingerprint: str

    def ids(self, prompts: Sequence[str], length: int) -> list[list[int]]:
        """Token ids of each prompt with its marks, cut to ``length`` before its end mark."""
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(max_length=length)
        return [self.tokenizer.encode(prompt).ids for prompt in prompts]


def open_vocabulary(folder: Path, chosen: Mapping[str, Any], config: Mapping[str, Any]) -> Vocabulary:
    """The vocabulary of the model in ``folder``: beside it, in ``tokenizer`` beside or above it, or where the option says.

    Raises MissingFile where there is none, LayoutError where it is damaged or of a larger vocabulary than the model's.
    """
    import tokenizers

    given = Path(chosen["tokenizer"]).expanduser() if chosen["tokenizer"] else None
    places = [folder, folder / TOKENIZER_FOLDER, folder.parent / TOKENIZER_FOLDER] if given is None else [given]
    place = next((place for place in places if (place / TOKENIZER).is_file()), None)
    if place is None:
        raise MissingFile(
            f"there is no {TOKENIZER}",
            str(given or folder),
            f"set the option tokenizer to the folder that holds the model's {TOKENIZER}",
        )
    path = place / TOKENIZER
    try:
        if path.stat().st_size > MAX_TOKENIZER_BYTES:
            raise ValueError(f"larger than {MAX_TOKENIZER_BYTES} bytes")
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:
        if type(error) not in (Exception, ValueError, OSError):  # the library raises bare Exception for a bad file
            raise
        raise LayoutError(f"is no vocabulary: {str(error)[:200]}", str(path), "fetch it again") from error
    size, known = tokenizer.get_vocab_size(with_added_tokens=True), int(config.get("vocab_size", 0))
    if size > known:
        raise LayoutError(
            f"the vocabulary has {size} tokens, the model {known}", str(path), "give the model its own tokenizer"
        )
    marks = tokenizer.num_special_tokens_to_add(is_pair=False)
    if chosen["length"] <= marks:
        raise RecipeError(f"length = {chosen['length']} leaves no room", str(path), f"{marks} tokens are marks")
    pad_id = _pad_id(place, tokenizer, config)
    return Vocabulary(tokenizer, pad_id, fingerprint("vocabulary-1", file_sha256(path), pad_id))


def _pad_id(place: Path, tokenizer: Any, config: Mapping[str, Any]) -> int:
    """Of the padding token as the tokenizer's own files name it, else as the model's configuration does, else 0."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        token = _json(place / name).get("pad_token")
        token = token.get("content") if isinstance(token, dict) else token
        found = tokenizer.token_to_id(token) if isinstance(token, str) else None
        if found is not None:
            return int(found)
    return int((tokenizer.padding or {}).get("pad_id", config.get("pad_token_id") or 0))


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ValueError("too large")
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise LayoutError(f"is not read: {error}", str(path), "fetch the weights again") from error
    return values if isinstance(values, dict) else {}


@dataclass(frozen=True, slots=True)
class Family:
    """One way of the library to turn tokens into numbers."""

    name: str
    what: str
    """For messages, such as ``a umT5 text encoder``."""
    model_types: tuple[str, ...]
    """What ``model_type`` of the configuration may say; empty: anything the library has itself."""
    model_class: Callable[[], Any]
    """Imports the class that loads the weights."""
    read: Callable[[Any, "torch.Tensor"], "torch.Tensor"]
    """(what the model gives, mask [B, l]) to [B, l, D], or to [B, 1, D] where ``pooled``."""
    width: Callable[[Mapping[str, Any]], int]
    pooled: bool = False
    optional: str = ""
    """Beginning of names of weights that may be missing, because ``read`` does not look at what they make."""


def model_folder(weights: str | None, family: Family) -> Path:
    """The folder of the model: ``weights``, or ``text_encoder`` in it. Raises MissingFile and LayoutError.

    ``tokenizer`` is named too, so that it is fetched where ``weights`` is a hub id.
    """
    folder = weights_folder(weights, ("text_encoder", TOKENIZER_FOLDER), family.what)
    found = read_config(folder).get("model_type")
    if family.model_types and found not in family.model_types:
        raise LayoutError(
            f"is of the type {found!r}, not {' or '.join(family.model_types)}", str(folder), f"needed: {family.what}"
        )
    return folder


class TransformerEncoder:
    """Prompts to the last hidden states of a text model, or to one pooled vector each; see ``TextEncoder``."""

    def __init__(self, family: Family, folder: Path, chosen: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        """``config`` is that of the text model. Raises what ``open_vocabulary`` and ``weights_fingerprint`` raise."""
        self.name = family.name
        self._family = family
        self._folder = folder
        self._chosen = chosen
        self._device = _device(family.name, chosen["device"])
        self._vocabulary = open_vocabulary(folder, chosen, config)
        limit = config.get("max_position_embeddings")
        if isinstance(limit, int) and chosen["length"] > limit:
            raise RecipeError(f"{family.name} cannot do length = {chosen['length']}", hint=f"the model takes {limit}")
        weights = weights_fingerprint(folder, chosen["sha256"])
        self.length = 1 if family.pooled else int(chosen["length"])
        self.width = family.width(config)
        values = {key: chosen[key] for key in _CHANGE_VALUES if key in chosen}
        if family.pooled:
            values["tokens"] = chosen["length"]
        self.fingerprint = fingerprint(
            "text-encoder", VERSION, family.name, weights, self._vocabulary.fingerprint, values
        )
        self._model: Any = None

    def encode(self, prompts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """float32 [N, L, D] and bool [N, L]; zero beyond the mask, unless ``padding`` is kept. Raises LayoutError."""
        values = np.zeros((len(prompts), self.length, self.width), dtype=np.float32)
        mask = np.zeros((len(prompts), self.length), dtype=bool)
        cleaned = [clean_as_wan(prompt) if self._chosen["clean"] == "wan" else prompt for prompt in prompts]
        tokens = self._vocabulary.ids(cleaned, self._chosen["length"])
        with self._running():
            for first in range(0, len(tokens), self._chosen["batch"]):
                part = tokens[first : first + self._chosen["batch"]]
                found, seen = self._encode(part)
                rows = slice(first, first + len(part))
                values[rows, : found.shape[1]] = found
                mask[rows, : seen.shape[1]] = seen
        return values, mask

    def _encode(self, tokens: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
        import torch

        kept = self._chosen["padding"] == "kept"
        # Shorter batches cost less, and what the mask hides changes nothing but the order of sums.
        longest = self._chosen["length"] if kept else max(len(one) for one in tokens)
        ids = np.full((len(tokens), longest), self._vocabulary.pad_id, dtype=np.int64)
        seen = np.zeros(ids.shape, dtype=bool)
        for row, one in enumerate(tokens):
            ids[row, : len(one)] = one
            seen[row, : len(one)] = True
        at = torch.from_numpy(seen).to(self._device)
        # who keeps the padding does not hide it from the model either
        hidden = None if kept else at.long()
        found = self._family.read(
            self._opened()(input_ids=torch.from_numpy(ids).to(self._device), attention_mask=hidden), at
        )
        values = found.float().cpu().numpy()
        if self._family.pooled:
            return values, np.ones((len(tokens), 1), dtype=bool)
        return values if kept else np.where(seen[:, :, None], values, np.float32(0)), seen

    def _opened(self) -> Any:
        import safetensors
        import torch

        if self._model is not None:
            return self._model
        where = str(self._folder)
        try:
            with _quietly():
                model, found = self._family.model_class().from_pretrained(
                    where,
                    dtype=getattr(torch, self._chosen["dtype"]),
                    use_safetensors=True,
                    local_files_only=True,
                    output_loading_info=True,
                )
        except (*_BAD_MODEL, safetensors.SafetensorError) as error:
            first = str(error).strip().splitlines()[:1]
            told = first[0][:200] if first else type(error).__name__
            raise LayoutError(f"cannot be opened as {self._family.what}: {told}", where, AGAIN) from error
        optional = self._family.optional
        missing = [name for name in found["missing_keys"] if not (optional and name.startswith(optional))]
        if missing:
            raise LayoutError(f"{len(missing)} weights are missing, such as {sorted(missing)[0]}", where, AGAIN)
        self._model = model.to(self._device).eval()
        return self._model

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        """Inference with our number of threads, which torch keeps per process; put back afterwards."""
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(self._chosen["threads"])
        try:
            with torch.inference_mode():
                yield
        finally:
            torch.set_num_threads(before)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without the library's bars and its tables of weights that we do not ask for."""
    from transformers.utils import logging as untyped

    logging: Any = untyped
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def _device(name: str, wanted: str) -> str:
    import torch

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=wanted)
    except (RuntimeError, AssertionError) as error:
        raise RecipeError(f"there is no device {wanted!r} here", name, 'set the option device to "cpu"') from error
    return wanted


def hidden_states(output: Any, _: "torch.Tensor") -> "torch.Tensor":
    """The last hidden states [B, l, D]."""
    states: torch.Tensor = output.last_hidden_state
    return states
