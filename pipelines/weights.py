"""Weights of pretrained models: in a local folder, or fetched once from the Hugging Face hub; and what they are, by content.

Only JSON and safetensors are taken: neither holds code. A hub id may pin a revision, as in
``Wan-AI/Wan2.1-T2V-1.3B-Diffusers@0fad780``.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import xxhash

from pipelines.stores import failures
from schemas.errors import FingerprintMismatch, LayoutError, MissingFile
from schemas.fingerprint import fingerprint

CONFIG = "config.json"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")
_LOADED = re.compile(r"(diffusion_pytorch_)?model(-\d+-of-\d+)?")
"""Names that diffusers and transformers give to weights, whole or in parts."""
_PATTERNS = ("*.json", "*.safetensors", "*.model", "*.txt")
"""Of a hub repository: configurations, weights, and the vocabularies of its tokenizers."""
_VARIANTS = ("*.fp16*", "*.bf16*", "*.fp32*", "*.ema*", "*.non_ema*")
"""Copies of the same weights in another precision, which nothing here reads."""
_VOLATILE = ("_diffusers_version", "_name_or_path", "transformers_version", "torch_dtype", "dtype")
"""Keys of a configuration that say who wrote it, or what the recipe decides, and not what the model is."""
_BLOCK_BYTES = 1 << 24
MAX_CONFIG_BYTES = 1 << 24


def weights_folder(weights: str | None, subfolders: Sequence[str], what: str) -> Path:
    """The folder with the ``config.json`` of a model: the first of ``subfolders`` in ``weights`` that is there, or itself.

    Subfolders come first, since a repository of a whole pipeline may have another model in its root.

    ``weights`` is a local folder, or else the id of a repository on the hub, of which only these folders are fetched into the
    hub's own cache. Raises MissingFile where there is none; ``what`` says in the message what was looked for.
    """
    hint = f"--weights takes a folder with the {CONFIG} and *.safetensors of {what}, or its id on the Hugging Face hub"
    if not weights:
        raise MissingFile(f"{what} needs weights", hint=hint)
    root = Path(weights).expanduser()
    if not root.is_dir():
        if root.exists() or not _HUB_ID.fullmatch(weights):
            raise MissingFile("is not a folder" if root.exists() else "there is no such folder", weights, hint)
        root = _fetched(weights, subfolders, hint)
    found = _with_config(root, subfolders)
    if found is None:
        raise MissingFile(f"there is no {CONFIG}", str(root), hint)
    return found


def _with_config(root: Path, subfolders: Sequence[str]) -> Path | None:
    folders = (*(root / name for name in subfolders), root)
    return next((folder for folder in folders if (folder / CONFIG).is_file()), None)


def _fetched(hub_id: str, subfolders: Sequence[str], hint: str) -> Path:
    from huggingface_hub import snapshot_download

    name, _, revision = hub_id.partition("@")
    # A star of the hub's patterns takes slashes too: those of the root, unbounded, would fetch a whole pipeline.
    steps = [([f"{folder}/{pattern}" for folder in subfolders for pattern in _PATTERNS], list(_VARIANTS))]
    steps.append((list(_PATTERNS), [*_VARIANTS, "*/*"]))
    root = Path()
    try:
        for wanted, unwanted in steps:
            if not wanted:
                continue
            root = Path(
                snapshot_download(name, revision=revision or None, allow_patterns=wanted, ignore_patterns=unwanted)
            )
            if _with_config(root, subfolders) is not None:
                break
    except failures("hf") as error:
        first = str(error).strip().splitlines()[:1]
        raise MissingFile(
            f"there is no such folder, and it cannot be fetched from the hub: {first[0] if first else type(error).__name__}",
            hub_id,
            f"{hint}; is there a network, and are its terms accepted (HF_TOKEN)?",
        ) from error
    return root


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of the model in ``folder``. Raises LayoutError where it is none."""
    path = folder / CONFIG
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ValueError(f"larger than {MAX_CONFIG_BYTES} bytes")
        config = json.loads(path.read_bytes())
        if not isinstance(config, dict):
            raise TypeError(f"a {type(config).__name__}")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise LayoutError(f"is no configuration of a model: {error}", str(path), "fetch the weights again") from error
    return config


def weights_files(folder: Path) -> list[Path]:
    """The safetensors in ``folder`` that the libraries load, sorted by name: not variants such as ``model.fp16.safetensors``,
    nor copies under other names such as ``sdxl_vae.safetensors`` beside ``diffusion_pytorch_model.safetensors``.

    Raises MissingFile where there are none.
    """
    every = sorted(folder.glob("*.safetensors"))
    plain = [path for path in every if "." not in path.stem]
    files = [path for path in plain if _LOADED.fullmatch(path.stem)] or plain
    if not files:
        message, mend = "there are no *.safetensors", "weights in other forms may hold code, and are not read"
        if every:
            message, mend = f"only the variant {every[0].name} is there", "fetch the weights without a variant"
        raise MissingFile(message, str(folder), mend)
    return files


def weights_fingerprint(folder: Path, expected: str = "") -> str:
    """64 hex digits of the configuration and of every byte of the safetensors in ``folder``, whatever their names and place;
    variants are not part of it.

    Read at the speed of the disk (xxh3). Raises MissingFile where there are none, FingerprintMismatch where it is not
    ``expected``, unless that is empty.
    """
    config = {key: value for key, value in read_config(folder).items() if key not in _VOLATILE}
    files = weights_files(folder)
    found = fingerprint("weights-1", config, sorted(_content(path) for path in files))
    if expected and found != expected:
        raise FingerprintMismatch(
            f"the weights have the fingerprint {found}, not {expected}",
            str(folder),
            "pass the weights the recipe was written for, or change its option sha256",
        )
    return found


def _content(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return f"{path.stat().st_size}-{digest.hexdigest()}"
