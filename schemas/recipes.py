"""Recipes: the choices of a run, as TOML. Unknown keys are errors that name the nearest known key."""

import difflib
import tomllib
from fractions import Fraction
from typing import Annotated, Any, Literal, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError, model_validator

from schemas.action_recipe import ActionRecipe
from schemas.canvas import MAX_EDGE_PX, Fit
from schemas.embodiment import VIEW_SLOTS, ViewSlot
from schemas.errors import RecipeError
from schemas.findings import Severity
from schemas.fingerprint import fingerprint
from schemas.release_choices import (
    CtrlWorldRecipe,
    FastWamRecipe,
    NamesRecipe,
    SizeRecipe,
    SplitRecipe,
    TextChoice,
    ZarrRecipe,
)
from schemas.text_recipe import TextRecipe
from schemas.time import parse_rate, parse_seconds, rate_text


def _native_or_rate(value: Any) -> Any:
    return None if value in (None, "native") else parse_rate(value)


TargetRate = Annotated[
    Any, BeforeValidator(_native_or_rate), PlainSerializer(lambda rate: "native" if rate is None else rate_text(rate))
]
"""``"native"`` (None in memory: the source's own steps or frames) or a rate in Hz (a Fraction in memory)."""


Seconds = Annotated[Fraction, BeforeValidator(parse_seconds), PlainSerializer(str, return_type=str)]
"""A duration, written ``2``, ``0.5`` or ``"7/15"`` in TOML, an exact Fraction in memory."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def fingerprint(self) -> str:
        """Changes when any choice changes."""
        return fingerprint(type(self).__name__, self.model_dump(mode="json"))


class Limits(_Frozen):
    """Sizes from data are checked against these before anything is allocated."""

    max_pixels: int = Field(default=16_777_216, gt=0)
    """Per frame."""
    max_frames: int = Field(default=2_000_000, gt=0)
    """Per video; and rows per episode of a Zarr store."""
    max_video_bytes: int = Field(default=4_294_967_296, gt=0)
    max_record_bytes: int = Field(default=2_147_483_648, gt=0)
    """Per TFRecord or Parquet file."""
    max_array_bytes: int = Field(default=8_589_934_592, gt=0)
    """Per array of an HDF5 or Zarr file, as it would lie in memory."""
    decode_memory_mb: int = Field(default=3072, gt=0)
    """Address space the decoding child may use beyond what it starts with."""
    seconds_per_1000_frames: float = Field(default=120.0, gt=0)
    """Deadline of the decoding child, at least 20 s in any case."""


class Gates(_Frozen):
    """Which findings reject an episode."""

    reject_at: Severity | Literal["never"] = Severity.ERROR
    rules: dict[str, Severity | Literal["ignore"]] = {}
    """Changes the severity of a rule by name."""


class SegmentRules(_Frozen):
    """When a robot idles and where time has a gap; the numbers are DROID's published ones (see ``pipelines.segments``)."""

    idle_change: float = Field(default=0.0005, gt=0, lt=1)
    """Of a channel's range: one that changes less from step to step stands still."""
    idle_s: Seconds = Fraction(7, 15)
    """Shorter rests are part of the motion."""
    keep_s: Seconds = Fraction(16, 15)
    """Shorter motions are not worth keeping."""
    trim_s: Seconds = Fraction(10, 15)
    """Left out at the end of what is kept, since the actions that follow it are idle."""
    gap_periods: float = Field(default=2.5, gt=1)
    """Rows further apart than this many nominal periods bound a gap."""


class IngestRecipe(_Frozen):
    """Choices of ``wamloom ingest``."""

    gates: Gates = Gates()
    segments: SegmentRules = SegmentRules()
    limits: Limits = Limits()
    video_check: Literal["decode", "packets"] = "decode"
    """``decode`` looks at every frame (small); ``packets`` only at containers and counts."""
    max_failed_fraction: float = Field(default=0.0, ge=0, le=1)
    max_rejected_fraction: float = Field(default=0.5, ge=0, le=1)
    unit_mb: int = Field(default=64, gt=0)
    """Source bytes per work unit."""
    annotations: tuple[str, ...] = ()
    """Files published beside a data set (languages, calibrations, keep-ranges of DROID), or folders of them."""
    blob_mb: int = Field(default=64, gt=0)
    """A larger video becomes a file of its own in the lake instead of a blob in its table."""
    commit_mb: int = Field(default=256, gt=0)
    """Rows are committed to the lake in batches of about this size."""


SegmentKind = Literal["idle", "keep", "language", "success"]


class ViewsRecipe(_Frozen):
    """How a view becomes pixels of one size."""

    slots: tuple[ViewSlot, ...] = ()
    """Empty: every view the episode has."""
    canvas: str = ""
    """A canvas that makes several views one, by name or as a ``.toml`` file; it says which views, and how they fit."""
    height_px: int | None = Field(default=None, gt=0, le=MAX_EDGE_PX)
    width_px: int | None = Field(default=None, gt=0, le=MAX_EDGE_PX)
    """Both None: the size of the source, or of the canvas."""
    fit: Fit = "pad"
    filter: Literal["area", "bilinear", "bicubic", "lanczos"] = "area"
    """swscale filter."""

    @model_validator(mode="after")
    def _sound(self) -> "ViewsRecipe":
        if self.canvas and (self.slots or self.fit != "pad"):
            raise ValueError("a canvas says itself which views it shows and how they fit; leave out slots and fit")
        return self


class ClipRecipe(_Frozen):
    """How a view is cut into latent clips. No clip ever crosses a gap."""

    kind: Literal["whole", "fixed", "frames"] = "whole"
    """``whole`` runs, with a tail the encoder can take; ``fixed`` length; or every frame encoded by itself (``frames``),
    which is another latent than a frame within a clip where the encoder looks at time."""
    num_frames: int = Field(default=17, gt=0)
    """For ``fixed``: frames per clip; must be one the encoder can take, such as 1+4k."""
    stride: int | None = Field(default=None, gt=0)
    """For ``fixed``: frames from one clip's start to the next; None: clips meet end to end."""
    phases: tuple[Annotated[int, Field(ge=0, le=100_000)], ...] = Field(default=(0,), min_length=1)
    """Clips begin so many frames behind the start of each run, once for each: causal latents depend on where a clip begins,
    so trainers that begin anywhere need several. For ``frames``, of the episode: every third is then every third of it."""
    bounds: tuple[SegmentKind, ...] = ()
    """Where spans of these kinds start and end, clips begin anew, such as ``["language"]``."""
    within: SegmentKind | None = None
    """Only runs inside spans of this kind are encoded, such as ``"keep"``."""


class EncodeRecipe(_Frozen):
    """Choices of ``wamloom encode``."""

    encoder: str = "wavelet"
    weights: str | None = None
    options: dict[str, int | float | str | bool] = {}
    """Passed to the encoder by name, such as ``spatial = 16`` for wavelet."""
    rate: TargetRate = None
    frame_stride: int = Field(default=1, gt=0, le=100_000)
    """Every so many frames (of the camera, or of the grid at ``rate``) are taken."""
    views: ViewsRecipe = ViewsRecipe()
    clip: ClipRecipe = ClipRecipe()
    batch_clips: int = Field(default=8, gt=0)
    """Clips of one shape that the encoder is given together, at most."""
    dtype: Literal["float32", "float16"] = "float32"
    unit_frames: int = Field(default=2000, gt=0)
    """Frames per work unit, at most."""
    unit_mb: int = Field(default=256, gt=0)
    """Pixels and latents per work unit, at most (one view of one episode is never split)."""
    max_clip_mb: int = Field(default=2048, gt=0)
    """Refuses clips whose pixels and latents together would need more memory than this."""
    max_failed_fraction: float = Field(default=0.0, ge=0, le=1)
    limits: Limits = Limits()


class TokenizerRecipe(_Frozen):
    """Which action tokenizer, and its parameters by name."""

    name: str = "bins"
    options: dict[str, int | float | str | bool] = {}
    offset: int = Field(default=0, ge=0, le=2**31)
    """Added to every token id of a release, to place them in the vocabulary of a model; the manifest tells it."""


class VideoRecipe(_Frozen):
    """How pixels are encoded in formats that carry video."""

    codec: Literal["h264", "av1"] = "h264"
    gop: int = Field(default=4, gt=0)
    """Frames from one key frame to the next. On DROID at 320x192, windows of a second take LeRobot's reader 8 % less with 4 than
    with 2, single pictures 10 % more, from files 30 % smaller of a little more PSNR (``benchmarks.bench_lerobot_reader``)."""
    crf: int = Field(default=23, ge=0, le=63)
    preset: str = "veryfast"
    """x264 preset, or SVT-AV1 preset number; those from 11 on are its real-time mode."""
    tune: Literal["none", "fastdecode"] = "fastdecode"
    """Of h264: ``fastdecode`` leaves out what is slow to decode (CABAC, deblocking). On DROID at 320x192 and G1 at 640x480
    with g=2 and crf=23 that halves the time to decode, for files 4 to 10 % larger and 0.4 dB less."""
    reuse: bool = True
    """Takes over the recording's own compressed frames where they already are what is asked for: codec, size, 4:2:0, no
    B-frames, a key frame at least every ``gop`` frames, and a frame for each step, in order. They are not decoded."""


StatisticsForm = Literal["gear", "openpi", "fastwam", "gigaworld"]
"""Whose file a build writes beside its own statistics; LeRobot's lies in every LeRobot folder anyway."""


class SegmentFilter(_Frozen):
    """Which windows a build takes by the segments of the episode; no window ever crosses a gap, whatever stands here.

    Windows are left out, not steps: formats of single steps keep every step and mark those that count in ``selected``.
    """

    skip: tuple[SegmentKind, ...] = ()
    """Windows that touch a span of these kinds are left out, such as ``["idle"]``."""
    within: SegmentKind | None = None
    """Only windows wholly inside one span of this kind are taken, such as ``"keep"``."""
    bounds: tuple[SegmentKind, ...] = ()
    """Where spans of these kinds start and end, windows begin anew and chunks end, masked behind, such as
    ``["language"]``; what is relative to a segment's start is to that of such a span."""

    @property
    def is_set(self) -> bool:
        """Whether anything is left out."""
        return bool(self.skip) or self.within is not None


class BuildRecipe(_Frozen):
    """Choices of ``wamloom build``."""

    formats: tuple[str, ...] = ("lerobot_v3",)
    rate: TargetRate = None
    horizon: int = Field(default=16, gt=0, le=100_000)
    """Actions per chunk."""
    sample_stride: int | None = Field(default=None, gt=0)
    """Steps from one windowed sample to the next (webdataset); None: ``horizon``, so that windows tile."""
    segments: SegmentFilter = SegmentFilter()
    views: ViewsRecipe = ViewsRecipe()
    content: Literal["frames", "latents", "both"] = "frames"
    """What windowed samples carry of the picture."""
    encoder: str | None = None
    """Which latents to join, by encoder name; needed when content is not ``frames``. ``wan22@3f9c`` are those of the encoder
    whose fingerprint begins so, where a lake has several."""
    latent_rate: str | None = Field(default=None, pattern=r"^(native(/[1-9][0-9]{0,5})?|[0-9.]+(/[0-9]+)?)$")
    """Of these latents: ``native``, ``native/3`` (every third frame), or Hz such as ``5``; None: the rate of the build."""
    actions: ActionRecipe = ActionRecipe()
    """How action chunks are written; single steps stay as recorded."""
    normalize: Literal["none", "quantile", "min_max", "z_score"] = "none"
    """Of actions and proprio; the manifest carries the statistics."""
    normalize_by: Literal["all", "step"] = "all"
    """Chunks by the statistics of all their steps, or each step of the horizon by its own."""
    clamp: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Normalized values are cut to -clamp..clamp; None: nothing is cut."""
    stats_from: str | None = None
    """A ``statistics.json`` of another release of the same robot and action recipe, to normalize as it was; None: of the
    episodes of this build."""
    statistics: tuple[StatisticsForm, ...] = ()
    """Forms in which the statistics are also written, as the trainers named read them."""
    tokenizer: TokenizerRecipe | None = TokenizerRecipe()
    texts: TextChoice | None = None
    """Which embeddings of instructions to join; needed by formats that carry them."""
    video: VideoRecipe = VideoRecipe()
    sizes: dict[str, SizeRecipe] = {}
    """By format, of those that show another size than ``views``: all come from one decode."""
    names: NamesRecipe = NamesRecipe()
    split: SplitRecipe = SplitRecipe()
    ctrlworld: CtrlWorldRecipe = CtrlWorldRecipe()
    fastwam: FastWamRecipe = FastWamRecipe()
    zarr: ZarrRecipe = ZarrRecipe()
    mixture: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = {}
    """Weight of each data set by name, for trainers that mix several; the manifest tells the share of each group."""
    where: str = ""
    """SQL filter over the columns of the episodes table, such as ``dataset = 'bridge' and num_steps > 10``."""
    seed: int = 0
    """Orders the episodes."""
    unit_frames: int = Field(default=4000, gt=0)
    """Camera frames per work unit, and so per file."""
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _sound(self) -> "BuildRecipe":
        named = [name for name in ("clamp", "stats_from") if getattr(self, name) is not None]
        if self.normalize == "none" and (named or self.normalize_by == "step"):
            raise ValueError(f"{(named or ['normalize_by'])[0]} says how to normalize, but normalize is none")
        twice = [name for name in self.formats if self.formats.count(name) > 1]
        if twice:
            raise ValueError(f"the format {twice[0]!r} is named twice")
        odd = sorted(set(self.names.views) - set(VIEW_SLOTS))
        if odd and not self.views.canvas:
            raise ValueError(f"names.views names {odd[0]!r}, and views are {', '.join(VIEW_SLOTS)}")
        others = sorted(set(self.texts.formats) - set(self.formats)) if self.texts else []
        if others:
            raise ValueError(f"texts.formats has {others[0]!r}, which is none of the formats {', '.join(self.formats)}")
        odd = sorted(set(self.sizes) - set(self.formats))
        if odd:
            raise ValueError(f"sizes has {odd[0]!r}, which is none of the formats {', '.join(self.formats)}")
        if self.sizes and (self.views.canvas or self.content == "latents"):
            raise ValueError("sizes are of pictures of single views; a canvas has its own, and latents have none")
        return self

    def size_of(self, name: str) -> tuple[int | None, int | None]:
        """Height and width of the pictures of the format ``name``; None: as the source or the canvas has it."""
        one = self.sizes.get(name, self.views)
        return one.height_px, one.width_px


Recipe = IngestRecipe | EncodeRecipe | BuildRecipe | TextRecipe


def load_recipe[R: Recipe](kind: type[R], text: str, where: str, overrides: dict[str, Any] | None = None) -> R:
    """The recipe in ``text`` (TOML; may be empty), single fields replaced by ``overrides`` (nested dicts merge).

    Raises RecipeError that names the file, the key, and the nearest known key.
    """
    return validate_model(kind, _merge(parse_toml(text, where), overrides or {}), where)


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """The table in ``text``. Raises RecipeError, also for numbers and nesting beyond what Python reads."""
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"not valid TOML: {error}", where, "see docs/recipes.md for a complete example") from error


def validate_model[M: BaseModel](kind: type[M], values: dict[str, Any], where: str) -> M:
    """``values`` as ``kind``; raises RecipeError naming the key in question and the nearest known one."""
    try:
        return kind.model_validate(values)
    except RecipeError as error:  # a rate that is none
        raise RecipeError(error.message, error.where or where, error.hint, error.reason) from error
    except ValidationError as error:
        errors = error.errors(include_url=False)
        # a misspelt key is also a missing one; the spelling is what helps
        first = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])
        path = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = _known_keys(kind, first["loc"][:-1])
            near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
            raise RecipeError(f"unknown key {path!r}", where, _of_another_verb(kind, path) or hint) from error
        message = first["msg"].removeprefix("Value error, ")
        given = first["input"]
        # of a whole table the message says what contradicts what, and its values would drown that
        told = f"its keys: {', '.join(map(str, given))}" if isinstance(given, dict) else f"found {given!r}"
        if not path:
            told = "docs/recipes.md says what each key takes"
        elif first["type"] == "missing":
            told = f"give it too, beside {', '.join(map(str, given))}" if given else "give it"
        raise RecipeError(f"{path}: {message}" if path else message, where, told[:200]) from error


def _merge(values: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for key, value in overrides.items():
        inner = merged.get(key)
        merged[key] = _merge(inner, value) if isinstance(value, dict) and isinstance(inner, dict) else value
    return merged


def _of_another_verb(kind: type[BaseModel], path: str) -> str:
    """Whose key ``path`` is where another verb's recipes have it, else ""."""
    verbs: dict[str, type[BaseModel]] = {
        "ingest": IngestRecipe,
        "encode": EncodeRecipe,
        "texts": TextRecipe,
        "build": BuildRecipe,
    }
    if kind not in verbs.values():
        return ""
    having = [f"`wamloom {verb}`" for verb, one in verbs.items() if path in one.model_fields]
    return f"it is a key of recipes for {' and '.join(having)}" if having else ""


def _known_keys(kind: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Field names of the model that ``path`` leads to; [] where the path leaves the models."""
    model: Any = kind
    is_by_name = False
    for part in path:
        if isinstance(part, int):
            continue
        if is_by_name:  # a name of the user's, such as that of a format; the model is that of each
            is_by_name = False
            continue
        model_fields = getattr(model, "model_fields", {})
        if part not in model_fields:
            return []
        annotation = model_fields[part].annotation
        is_by_name = get_origin(annotation) is dict
        model = _inner_model(annotation)
    return sorted(getattr(model, "model_fields", {}))


def _inner_model(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _inner_model(argument)
        if found is not None:
            return found
    return None
