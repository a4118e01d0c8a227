"""Made-up builds for the tests of formats: plans, numbers, and frames that carry their own number in their pixels."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from hypothesis import strategies as st

from pipelines.action_chunks import ChunkLayout
from pipelines.barcode import draw
from pipelines.chunk_stats import ChunkStats, StatsOf
from pipelines.formats import BuiltEpisode, EpisodePlan, GroupPlan, PictureWriter, Split, UnitPlan
from pipelines.prompts import prompts_of, template_of
from pipelines.stats import sketch
from pipelines.text_rows import EMPTY, TextEmbedding
from pipelines.windows import latent_spans, sample_windows
from schemas.embodiment import Channel, ChannelKind, Embodiment, Gripper
from schemas.latent import ClipPlan, LatentClip
from schemas.recipes import BuildRecipe, TokenizerRecipe
from schemas.release_choices import TextChoice
from schemas.time import TimeGrid, parse_rate

LOCATION = "/recordings/made_up"
NEEDS_ARM = {"ctrlworld", "zarr", "droid_raw"}
"""Formats of robots whose pose and gripper are known."""
LATENT_STRIDES = {"lingbot": 4, "ctrlworld": 1}
"""Formats that carry latents of every view, and frames of a latent behind the first."""
TEMPLATES = {
    "lingbot": "plain",
    "fastwam": "fastwam",
    "gigaworld": "plain",
    "motus": "plain",
    "cosmos_policy": "plain",
    "cosmos_video": "plain",
}
"""Formats that carry embeddings, and the template of their prompts."""
TEXT_WIDTHS = {"cosmos_policy": 1024, "cosmos_video": 1024}
"""Formats that take embeddings of this width only; others are made up with 8."""
NEEDS_VIEWS = {"cosmos_policy": 2, "cosmos_video": 1, "droid_raw": 1, **dict.fromkeys(LATENT_STRIDES, 1)}
"""Formats that refuse fewer views."""
NEEDS_WORDS = {"fastwam"}
"""Formats that refuse steps without an instruction, and an @ in one."""
VIEWS = (("primary", 64, 96), ("wrist_left", 48, 64))
INSTRUCTIONS = ("pick up the cube", "", 'öffne die "Tür"')


@dataclass(frozen=True)
class FakeBuild:
    """A planned group with its numbers; frames are drawn when they are pushed."""

    group: GroupPlan
    recipe: BuildRecipe
    units: tuple[UnitPlan, ...]
    episodes: tuple[BuiltEpisode, ...]
    """Of all units, in order."""


def make_build(
    lengths: Sequence[int] = (7, 1, 12),
    *,
    rate: str = "15",
    views: Sequence[tuple[str, int, int]] = VIEWS,
    episodes_per_unit: int = 2,
    recipe: BuildRecipe | None = None,
    action_width: int = 4,
    proprio_width: int = 3,
    instructions: Sequence[str] = INSTRUCTIONS,
    other_instructions: Sequence[tuple[str, ...]] = ((),),
    latent_slots: Sequence[str] = (),
    latent_stride: int = 4,
    with_tokens: bool = True,
    seed: int = 0,
    arm: bool = False,
    num_val: int = 0,
    text_width: int = 8,
) -> FakeBuild:
    """A group of ``lengths`` episodes cut into units, the last ``num_val`` of them for validation. Actions are random, and no
    two rows are alike. Of an ``arm`` the first seven channels of both vectors are a pose and a gripper."""
    if arm:
        action_width, proprio_width = max(7, action_width), max(7, proprio_width)
    recipe = recipe or BuildRecipe(horizon=4, tokenizer=TokenizerRecipe() if with_tokens else None)
    random = np.random.default_rng(seed)
    plans: list[EpisodePlan] = []
    first_step = first_sample = 0
    for index, length in enumerate(lengths):
        num_samples = len(sample_windows(length, recipe.horizon, recipe.sample_stride))
        episode_id = hashlib.sha256(f"{seed}-{index}".encode()).hexdigest()
        text = instructions[index % len(instructions)]
        others = dict.fromkeys(other_instructions[index % len(other_instructions)])
        split: Split = "val" if index >= len(lengths) - num_val else "train"
        plan = EpisodePlan(episode_id, index, first_step, length, first_sample, num_samples, text)
        further = tuple(other for other in others if other != text)
        plans.append(replace(plan, other_instructions=further, split=split, success=(True, False, None)[index % 3]))
        first_step, first_sample = first_step + length, first_sample + num_samples
    episodes = [
        _episode(
            plan,
            parse_rate(rate),
            random,
            recipe,
            views,
            action_width,
            proprio_width,
            (latent_slots, latent_stride),
            with_tokens,
            text_width,
        )
        for plan in plans
    ]
    card = made_up_card(action_width, proprio_width, arm)
    chunk = _layout(action_width, [episode.action for episode in episodes])
    group = GroupPlan(
        name="made_up",
        dataset="made_up",
        card=card,
        rate=rate,
        action_names=tuple(channel.name for channel in card.action),
        proprio_names=tuple(channel.name for channel in card.proprio),
        views=tuple(views),
        stats={
            name: sketch(np.concatenate([getattr(episode, name) for episode in episodes])).stats().to_mapping()
            for name, width in (("action", action_width), ("proprio", proprio_width))
            if width
        },
        tasks=tuple(sorted({t for p in plans for _, _, said in p.told(recipe.names.joined_by) for t in said})),
        chunk=chunk,
        num_episodes=len(plans),
        num_steps=first_step,
        license="CC-BY-4.0",
        tokenizer_json='{"name": "bins"}' if with_tokens else None,
        recorded=chunk.stats,
    )
    packs: list[tuple[tuple[EpisodePlan, ...], tuple[int, int, int]]] = []
    for one in ("train", "val"):
        some = [plan for plan in plans if plan.split == one]
        starts = range(0, len(some), episodes_per_unit)
        packs += [
            (tuple(some[at : at + episodes_per_unit]), (n, len(starts), some[0].first_step))
            for n, at in enumerate(starts)
        ]
    units = tuple(UnitPlan(group, number, pack, len(packs), *place) for number, (pack, place) in enumerate(packs))
    return FakeBuild(group, recipe, units, tuple(episodes))


def build_of(name: str, lengths: Sequence[int] = (7, 1, 12), **choices: Any) -> FakeBuild:
    """``make_build`` with what the format ``name`` needs."""
    return make_build(lengths, **{**needs_of(name), **choices})


def made_up_card(action_width: int, proprio_width: int, arm: bool = False) -> Embodiment:
    """A robot of channels that nothing is known of, or an arm of which a pose and a gripper are."""

    def layout(letter: str, width: int) -> tuple[Channel, ...]:
        rest = tuple(Channel(name=f"{letter}{i}") for i in range(7 if arm else 0, width))
        place = [Channel(name=name, unit="m", kind=ChannelKind.POSITION) for name in "xyz"]
        turn = [Channel(name=name, unit="rad", kind=ChannelKind.EULER) for name in ("roll", "pitch", "yaw")]
        known = (*place, *turn, Channel(name="gripper", unit="1", kind=ChannelKind.GRIPPER)) if arm else ()
        return (*known, *rest)

    grippers = (Gripper(channel="gripper", open=0.0, closed=1.0),) if arm else ()
    return Embodiment(
        name="made_up_arm",
        title="An arm that is made up",
        proprio=layout("p", proprio_width),
        action=layout("a", action_width),
        proprio_grippers=grippers,
        action_grippers=grippers,
    )


def needs_of(name: str, views: Sequence[tuple[str, int, int]] = VIEWS, **recipe: Any) -> dict[str, Any]:
    """Choices of ``make_build`` under which the format ``name`` finds what it needs; ``recipe`` are further choices of that."""
    chosen: dict[str, Any] = {"arm": name in NEEDS_ARM, "views": views}
    if name in TEMPLATES:
        recipe["texts"] = TextChoice(encoder="made_up", template=TEMPLATES[name], steps=())
        chosen["text_width"] = TEXT_WIDTHS.get(name, 8)
    if name in LATENT_STRIDES:
        chosen |= {"latent_slots": [slot for slot, _, _ in views], "latent_stride": LATENT_STRIDES[name]}
        recipe = {"content": "both", "encoder": "made_up"} | recipe
    if name in NEEDS_WORDS:
        chosen["instructions"] = [text or "wipe the table" for text in INSTRUCTIONS]
    return chosen | {"recipe": BuildRecipe(**{"horizon": 4, **recipe})}


@dataclass(frozen=True)
class FakeChunks:
    """Chunks that are rows of ``action`` [T, A]; past the end the last one, which does not count."""

    action: np.ndarray
    valid: np.ndarray
    horizon: int

    def at(self, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = steps[:, None] + np.arange(self.horizon)
        inside = rows < len(self.action)
        rows = np.minimum(rows, len(self.action) - 1)
        return self.action[rows], inside & self.valid[rows]


def _layout(width: int, actions: Sequence[np.ndarray]) -> ChunkLayout:
    stats = ChunkStats(StatsOf("action", "plan", "made up"), sketch(np.concatenate(actions)).stats(), ())
    return ChunkLayout(tuple(f"a{i}" for i in range(width)), (True,) * width, (), "plan", stats)


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


@st.composite
def builds(choose: st.DrawFn, name: str = "") -> FakeBuild:
    """Builds of any shape a plan can have, with what the format ``name`` needs."""
    shapes = [(), (("primary", 64, 96),), (("primary", 48, 80), ("wrist_left", 64, 96))]
    views = choose(st.sampled_from(shapes[NEEDS_VIEWS.get(name, 0) :]))
    recipe = {"horizon": choose(st.integers(1, 5)), "sample_stride": choose(st.sampled_from([None, 1, 3]))}
    texts = TEXTS.filter(lambda text: text.strip() and "@" not in text) if name in NEEDS_WORDS else TEXTS
    lengths = choose(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    return make_build(
        lengths,
        num_val=choose(st.integers(0, len(lengths) - 1)),
        rate=choose(st.sampled_from(["5", "7.5", "15", "30000/1001"])),
        episodes_per_unit=choose(st.integers(1, 3)),
        action_width=choose(st.integers(1, 5)),
        proprio_width=choose(st.integers(0, 3)),
        other_instructions=choose(st.lists(st.lists(texts, max_size=3).map(tuple), min_size=1, max_size=3)),
        with_tokens=choose(st.booleans()),
        seed=choose(st.integers(0, 1000)),
        **needs_of(name, views, **recipe) | {"instructions": choose(st.lists(texts, min_size=1, max_size=3))},
    )


def _episode(
    plan: EpisodePlan,
    rate: Fraction,
    random: np.random.Generator,
    recipe: BuildRecipe,
    views: Sequence[tuple[str, int, int]],
    action_width: int,
    proprio_width: int,
    latents: tuple[Sequence[str], int],
    with_tokens: bool,
    text_width: int,
) -> BuiltEpisode:
    steps: np.ndarray = np.arange(plan.num_steps, dtype=np.int64)
    times = TimeGrid(0, rate, plan.num_steps).times_ns()
    starts = sample_windows(plan.num_steps, recipe.horizon, recipe.sample_stride)
    slots = {slot: (steps + 2 + number) // 2 for number, (slot, _, _) in enumerate(views)}
    sizes = {slot: (height // 16, width // 16) for slot, height, width in views}
    valid = np.ones(plan.num_steps, dtype=bool)
    valid[3:4] = False
    action = random.normal(size=(plan.num_steps, action_width)).astype(np.float32)
    return BuiltEpisode(
        plan=plan,
        times_ns=times,
        action=action,
        chunks=FakeChunks(action, valid, recipe.horizon),
        proprio=random.normal(size=(plan.num_steps, proprio_width)).astype(np.float32),
        valid=valid,
        source_rows=3 * steps + 1,
        source_times_ns=times - 17,
        frame_ids=slots,
        frame_times_ns=dict.fromkeys(slots, times - 5),
        chunk_stops=np.full(plan.num_steps, plan.num_steps),
        selected=None,
        tokens=[random.integers(0, 256, size=5 + i, dtype=np.int64) for i in range(len(starts))]
        if with_tokens
        else None,
        sample_steps=starts,
        latents={
            slot: _clips(plan, slot, rate, times, slots.get(slot, steps), random, sizes.get(slot, (3, 4)), latents[1])
            for slot in latents[0]
        },
        embeddings={} if recipe.texts is None else _embeddings(plan, recipe.texts, text_width),
        calibrations={},
        location=LOCATION,
        source_key=f"train/{plan.episode_index:06d}",
    )


def _clips(
    plan: EpisodePlan,
    slot: str,
    rate: Fraction,
    times: np.ndarray,
    frame_ids: np.ndarray,
    random: np.random.Generator,
    size: tuple[int, int],
    stride: int,
) -> list[LatentClip]:
    """One causal clip (1 + 4k frames, or each for itself) over as much of the episode as fits."""
    num_latents = 1 + (plan.num_steps - 1) // stride
    num_frames = latent_spans(1, stride, num_latents)[-1][1]
    ids, at = tuple(frame_ids[:num_frames].tolist()), tuple(times[:num_frames].tolist())
    clip = ClipPlan(plan.episode_id, slot, "views", "encoder", ids, at, rate)
    values = random.normal(size=(num_latents, 2, *size)).astype(np.float32)
    return [LatentClip(clip, values, stride, 1, clip.latent_id, 0)]


def _embeddings(plan: EpisodePlan, choice: TextChoice, width: int) -> dict[str, TextEmbedding]:
    """By instruction an embedding [n, width] of as many tokens as it has words, and one; of random numbers that it fixes."""
    template = template_of(choice.template, choice.steps)
    found = {}
    for text in (EMPTY, *(text for _, _, text in plan.texts), *plan.other_instructions):
        (prompt,) = prompts_of(template, {"instruction": text})
        random = np.random.default_rng(list(prompt.encode()))
        values = random.normal(size=(1 + len(text.split()), width)).astype(np.float32)
        found[text] = TextEmbedding(prompt, values, np.ones(len(values), bool), 32, "made_up", "fingerprint", "float32")
    return found


def frame_number(slot: str, step: int) -> int:
    """The number drawn into the frame of ``slot`` at ``step``; the episode index is its tag."""
    return step + (5000 if slot.startswith("wrist") else 0)


def make_frames(build: FakeBuild, episode: BuiltEpisode, slot: str) -> np.ndarray:
    """uint8 [T, H, W, 3]: smooth colours that change with the step, and the number."""
    _, height, width = next(view for view in build.group.views if view[0] == slot)
    down, across = np.mgrid[0:height, 0:width]
    frames = []
    for step in range(episode.plan.num_steps):
        picture = np.stack(
            [
                40 + 150 * across / width,
                60 + 120 * down / height,
                np.full((height, width), 30 + 20 * (step % 8)),
            ],
            axis=-1,
        ).astype(np.uint8)
        frames.append(draw(picture, frame_number(slot, step), episode.plan.episode_index))
    return np.stack(frames)


def write_unit(
    member: ModuleType, build: FakeBuild, unit: UnitPlan, folder: Path, *, chunk: int = 5, stop_before: str = ""
) -> dict[str, Any]:
    """Pushes a unit as the build line does and returns its facts; stops early at ``end`` or ``close`` of the last episode."""
    writer = member.FORMAT.open_unit(unit, build.recipe, folder)
    for plan in unit.episodes:
        episode = build.episodes[plan.episode_index]
        writer.begin(episode)
        for slot, _, _ in build.group.views if isinstance(writer, PictureWriter) else ():
            frames = make_frames(build, episode, slot)
            for start in range(0, len(frames), chunk):
                writer.frames(slot, start, frames[start : start + chunk])
        if stop_before == "end" and plan is unit.episodes[-1]:
            return {}
        writer.end()
    return {} if stop_before == "close" else writer.close()


def write_build(
    member: ModuleType, build: FakeBuild, folder: Path, *, chunk: int = 5
) -> list[tuple[UnitPlan, Mapping]]:
    """Writes every unit and finishes; returns what ``finish`` was given."""
    units = [(unit, write_unit(member, build, unit, folder, chunk=chunk)) for unit in build.units]
    member.FORMAT.finish(build.group, build.recipe, units, folder)
    return units


def tree_bytes(folder: Path) -> dict[str, bytes]:
    """Every file under ``folder`` by relative name."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
