"""What each verb is given and what it answers: values that the command line makes and ``jobs.<verb>.run`` takes."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jobs.execute import ExecutorName
from schemas.errors import RecipeError, UsageError
from schemas.recipes import (
    BuildRecipe,
    EncodeRecipe,
    IngestRecipe,
    Recipe,
    ViewsRecipe,
    load_recipe,
    parse_toml,
    validate_model,
)
from schemas.text_recipe import TextRecipe
from validation.check import check_gates


@dataclass(frozen=True, slots=True)
class SampleOptions:
    """Of ``wamloom sample``."""

    out: str
    layout: str
    num_episodes: int
    seed: int
    dry_run: bool


@dataclass(frozen=True, slots=True)
class IngestOptions:
    """Of ``wamloom ingest``."""

    locations: tuple[str, ...]
    lake: str
    card: str | None
    recipe: IngestRecipe
    retry: bool
    dry_run: bool
    executor: ExecutorName


@dataclass(frozen=True, slots=True)
class EncodeOptions:
    """Of ``wamloom encode``."""

    lake: str
    recipe: EncodeRecipe
    where: str
    dry_run: bool
    executor: ExecutorName


@dataclass(frozen=True, slots=True)
class ViewsOptions:
    """Of ``wamloom views``; all but ``action`` count only where it is ``show``."""

    action: Literal["list", "show"]
    lake: str = ""
    episode: str = ""
    """An id, or the beginning of one."""
    recipe: EncodeRecipe = field(default_factory=EncodeRecipe)
    out: str = ""
    frames: int = 6
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class TextsOptions:
    """Of ``wamloom texts``."""

    lake: str
    recipe: TextRecipe
    where: str
    dry_run: bool
    executor: ExecutorName


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """Of ``wamloom build``; formats and filter are in the recipe."""

    lake: str
    out: str
    recipe: BuildRecipe
    dry_run: bool
    executor: ExecutorName
    encode: EncodeRecipe | None = None
    """Makes the latents that the lake lacks."""


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """Of ``wamloom verify``."""

    target: str
    lake: str | None = None
    readers: bool = False
    latents: int = 0
    """Clips to decode back, of the encoder and views of ``recipe``; 0: none."""
    recipe: EncodeRecipe = field(default_factory=EncodeRecipe)
    encoder: bool = False
    """Of a release: whether its latents have to be those of the encoder of ``recipe``."""
    episodes: int | None = None
    """Of each group of a release, whose pictures are decoded; None: as many as usual."""
    certificate: str | None = None
    """JSON file to write what was checked to."""


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """Of ``wamloom report``."""

    target: str
    out: str
    dry_run: bool
    tokens: str | None = None
    """JSON file of ``wamloom tokens bench``, to show in the page; None: none."""
    certificate: str | None = None
    """JSON file of ``wamloom verify --certificate``, to show in the page of a release; None: what is verified now."""


@dataclass(frozen=True, slots=True)
class StatusOptions:
    """Of ``wamloom status``."""

    lake: str


@dataclass(frozen=True, slots=True)
class ShowOptions:
    """Of ``wamloom show``; at most one of ``episode`` and ``sample`` is given."""

    target: str
    episode: str | None
    sample: int | None
    format: str | None = None
    """Whose samples are counted; None: the first of the release's recipe."""
    out: str | None = None
    """PNG to write the sample's pictures to."""


@dataclass(frozen=True, slots=True)
class CardsOptions:
    """Of ``wamloom cards``; which fields count depends on ``action``."""

    action: Literal["list", "show", "check", "new"]
    card: str = ""
    location: str = ""
    num_episodes: int = 10
    name: str | None = None
    """Of the card that is drafted; None: the data set's."""
    out: str | None = None
    """Folder for drafted cards; None: they are printed."""
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class TokensOptions:
    """Of ``wamloom tokens bench``."""

    lake: str
    recipe: BuildRecipe
    tokenizers: tuple[str, ...] = ()
    """Names; none: every one there is."""
    published: tuple[str, ...] = ()
    """Folders of published FAST vocabularies, to measure too."""
    holdout: float = 0.2
    """Part of the episodes that is measured on and not fitted to."""
    out: tuple[str, ...] = ()
    """Files to write: a page where a name ends in .html, else all numbers as JSON."""
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What a verb gives back: ``values`` for ``--json``, ``lines`` for a person (else made from the values)."""

    values: Mapping[str, Any]
    lines: Sequence[str] = ()
    exit_code: int = 0
    """0 done; 4 finished, but failures exceed the budget; 5 verification found a problem."""
    warnings: Sequence[str] = field(default=())
    """Go to stderr."""


def read_recipe[R: Recipe](
    kind: type[R], path: str | None, settings: Sequence[str], flags: Mapping[str, Any] | None = None
) -> R:
    """The recipe in the file ``path`` (None: all defaults), fields replaced by ``settings`` (``key.key=value``) and ``flags``.

    Flags that are None change nothing. Raises RecipeError and UsageError.
    """
    overrides: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {setting!r} is not KEY=VALUE", hint="such as --set gates.reject_at=warning")
        _place(overrides, key.split("."), _value(text))
    overrides.update({key: value for key, value in (flags or {}).items() if value is not None})
    where = path or "the command line"
    recipe = load_recipe(kind, "" if path is None else _text(path), where, overrides)
    if isinstance(recipe, IngestRecipe):
        check_gates(recipe.gates, where)
    return recipe


def read_views(path: str | None) -> dict[str, Any] | None:
    """The keys of a views recipe file, checked; None for None. Raises RecipeError."""
    if path is None:
        return None
    values = parse_toml(_text(path), path)
    validate_model(ViewsRecipe, values, path)
    return values


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror}", path, "give the path of a TOML file") from error
    except UnicodeDecodeError as error:
        raise RecipeError("is not UTF-8 text", path, "give the path of a TOML file") from error


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text  # a bare word is a string: quotes would be lost in most shells


def _place(tree: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for part in path[:-1]:
        inner = tree.setdefault(part, {})
        if not isinstance(inner, dict):
            raise UsageError(f"--set gives both {part!r} and something inside it")
        tree = inner
    tree[path[-1]] = value
