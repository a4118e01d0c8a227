"""The text line: instructions of kept episodes -> one row of an embedding per distinct prompt and encoder, computed once.

``plan_texts`` finds the prompts and leaves out those the lake has, ``TextWorker`` encodes a unit into a staged file,
``TextCommitter`` puts staged rows into the lake.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pyarrow as pa

from pipelines import registry
from pipelines.lake import Lake, quoted
from pipelines.prompts import EPISODE_FIELDS, fields_of, prompts_of, template_of
from pipelines.rows import Row
from pipelines.selection import kept_rows
from pipelines.staged_rows import Account, commit_staged, staged_rows
from pipelines.storage import file_record, writing
from pipelines.text_encoders import TextEncoder
from pipelines.text_rows import EMPTY, text_batch, text_id
from schemas.embodiment import Embodiment
from schemas.errors import FingerprintMismatch, RecipeError, WamloomError
from schemas.fingerprint import fingerprint
from schemas.tables import TEXTS
from schemas.text_recipe import TextRecipe
from schemas.work import Outcome, UnitResult, WorkUnit

_COLUMNS = ["outcome", "dataset", "instructions", "segments", "embodiment", "embodiment_json", "views"]
_CALL_BYTES = 1 << 28
"""Padded embeddings that an encoder is asked for at once, at most; one prompt of 512 x 4096 has 8 MB."""


@dataclass(frozen=True, slots=True)
class TextPlan:
    """What a run will do."""

    episodes: int
    speechless: int
    """Episodes without any text: for them there is the empty prompt."""
    instructions: int
    """Texts of all episodes together, each counted once an episode."""
    num_prompts: int
    """Distinct ones, with the empty one and those of the recipe."""
    cached: int
    """Prompts whose embedding the lake has."""
    unusual: int
    """Prompts with characters other than printable ASCII, which trainers that mend texts with ftfy may write otherwise."""
    units: tuple[WorkUnit, ...]
    encoder_fingerprint: str
    length: int
    width: int
    template: str


def load_text_encoder(recipe: TextRecipe) -> TextEncoder:
    """The encoder of the recipe. Raises UsageError, RecipeError, MissingFile or LayoutError before any work."""
    return cast(TextEncoder, registry.load("text_encoders", recipe.encoder).load(recipe.weights, recipe.options))


def texts_of(row: Row) -> tuple[str, ...]:
    """Every text an episode's row carries, once: its instructions, and labels of language segments."""
    said = [one["text"] for one in row["instructions"] or []]
    said += [one["label"] for one in row["segments"] or [] if one["kind"] == "language"]
    return tuple(dict.fromkeys(text for text in said if text and text.strip()))


def episode_fields(row: Row) -> dict[str, object]:
    """What a template may name of an episode, its instruction still empty."""
    robot = Embodiment.model_validate_json(row["embodiment_json"])
    return fields_of(robot, row["dataset"], {view["slot"] for view in row["views"] or []})


def plan_texts(lake: Lake, recipe: TextRecipe, encoder: TextEncoder, where: str = "") -> TextPlan:
    """Finds the prompts of every kept episode and packs those that are missing into units.

    Raises LakeError where no kept episode matches, RecipeError where the template is wrong.
    """
    template = template_of(recipe.template, recipe.steps)
    taken = sorted(set(recipe.fields) & set(EPISODE_FIELDS))
    if taken:
        raise RecipeError(f"the field {taken[0]!r} is what an episode gives", "fields", "give your own another name")
    rows = kept_rows(lake, where, _COLUMNS)
    instructions = speechless = 0
    found: dict[str, None] = dict.fromkeys((EMPTY, *recipe.extra_prompts))
    for row in rows:
        fields = {**recipe.fields, **episode_fields(row)}
        texts = texts_of(row)
        instructions += len(texts)
        speechless += not texts
        for text in texts:
            found.update(dict.fromkeys(prompts_of(template, {**fields, "instruction": text})))
    prompts = sorted(found, key=lambda prompt: (len(prompt), prompt))  # of like length, so that little is padded
    have = {row["text_id"] for row in lake.rows("texts", [], f"encoder_fingerprint = {quoted(encoder.fingerprint)}")}
    missing = [
        prompt for prompt in prompts if text_id(prompt, encoder.fingerprint, encoder.length, recipe.dtype) not in have
    ]
    return TextPlan(
        len(rows),
        speechless,
        instructions,
        len(prompts),
        len(prompts) - len(missing),
        sum(not (prompt.isascii() and prompt.isprintable()) for prompt in prompts),
        tuple(_units(missing, recipe, encoder)),
        encoder.fingerprint,
        encoder.length,
        encoder.width,
        template.label,
    )


def _units(prompts: Sequence[str], recipe: TextRecipe, encoder: TextEncoder) -> Iterator[WorkUnit]:
    for first in range(0, len(prompts), recipe.unit_prompts):
        pack = tuple(prompts[first : first + recipe.unit_prompts])
        unit_id = fingerprint("texts-1", pack, encoder.fingerprint, encoder.length, recipe.dtype)
        yield WorkUnit(unit_id, pack, len(pack) * encoder.length * encoder.width * 4)


class TextWorker:
    """Encodes the prompts of a unit into one staged file. A prompt whose numbers are not finite costs itself only."""

    def __init__(self, staging: str, recipe: TextRecipe, planned: str) -> None:
        """``planned`` is the fingerprint of the encoder that the plan was made with.

        Raises FingerprintMismatch where the weights found here are others, LayoutError where they cannot be opened.
        """
        self._staging = Path(staging)
        self._recipe = recipe
        self._label = template_of(recipe.template, recipe.steps).label
        self._encoder = load_text_encoder(recipe)
        if self._encoder.fingerprint != planned:
            raise FingerprintMismatch(
                f"the encoder has the fingerprint {self._encoder.fingerprint}, not {planned}",
                recipe.weights or recipe.encoder,
                "let every machine that works have the same weights; a hub id may pin them, as in owner/name@revision",
            )
        self._encoder.encode(
            [EMPTY]
        )  # opens the model: weights that do not fit stop the run, and are no prompt's failure

    def __call__(self, unit: WorkUnit) -> UnitResult:
        """Encodes the unit."""
        path = self._staging / f"{unit.unit_id}.arrow"
        with writing(path):
            return self._write(unit, path)

    def _write(self, unit: WorkUnit, path: Path) -> UnitResult:
        outcomes: list[Outcome] = []
        with staged_rows(path, TEXTS) as writer:
            for prompts in self._slices(cast(tuple[str, ...], unit.payload)):
                outcomes += self._encode(prompts, writer)
        kept = sum(outcome.kind == "kept" for outcome in outcomes)
        return UnitResult(unit.unit_id, tuple(outcomes), (file_record(path, self._staging, kept),))

    def _slices(self, prompts: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        at_once = max(1, _CALL_BYTES // (self._encoder.length * self._encoder.width * 4))
        for first in range(0, len(prompts), at_once):
            yield prompts[first : first + at_once]

    def _encode(self, prompts: tuple[str, ...], writer: pa.ipc.RecordBatchFileWriter) -> Iterable[Outcome]:
        encoder, recipe = self._encoder, self._recipe
        values, masks = encoder.encode(prompts)
        for prompt, numbers, mask in zip(prompts, values, masks, strict=True):
            key = text_id(prompt, encoder.fingerprint, encoder.length, recipe.dtype)
            try:
                batch = text_batch(
                    prompt,
                    numbers,
                    mask,
                    template=self._label if prompt else "",
                    encoder=encoder.name,
                    encoder_fingerprint=encoder.fingerprint,
                    dtype=recipe.dtype,
                    padded=recipe.storage == "padded",
                )
            except WamloomError as error:
                yield Outcome(key, "failed", error.reason, error.message, f"prompt {prompt[:80]!r}", error.hint)
                continue
            writer.write_batch(batch)
            full = encoder.length > 1 and bool(mask.all())
            yield Outcome(key, "kept", numbers=(("full", float(full)), ("bytes", float(batch.nbytes))))

    @staticmethod
    def lost(unit: WorkUnit, reason: str, message: str) -> UnitResult:
        """The outcomes of a unit that killed its worker again and again."""
        prompts = cast(tuple[str, ...], unit.payload)
        return UnitResult(
            unit.unit_id,
            tuple(Outcome(prompt, "failed", reason, message, f"prompt {prompt[:80]!r}") for prompt in prompts),
        )

    def close(self) -> None:
        """Nothing is held open."""


class TextCommitter:
    """Puts staged embeddings into the lake, a unit at a time, and keeps the account."""

    def __init__(self, lake: Lake, plan: TextPlan, staging: Path) -> None:
        self._lake = lake
        self._staging = staging
        self.totals = Account("prompts", plan.num_prompts, plan.cached)
        self.full = 0
        """Computed prompts that fill all tokens there are: those that are longer were cut."""
        self.num_bytes = 0

    def add(self, result: UnitResult) -> None:
        """Commits one unit; after this returns, its embeddings survive anything."""
        commit_staged(self._lake, "texts", self._staging, result.files)
        self.totals.add(result.outcomes)
        for outcome in result.outcomes:
            numbers: Mapping[str, float] = dict(outcome.numbers)
            self.full += int(numbers.get("full", 0))
            self.num_bytes += int(numbers.get("bytes", 0))

    def close(self) -> Account:
        """Proves the account. Raises LakeError where a planned prompt has neither an embedding nor a failure."""
        self.totals.close(str(self._lake.root))
        return self.totals
