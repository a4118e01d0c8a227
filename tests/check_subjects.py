"""Builds subjects for the tests of checks: a sound episode of a small arm, and any part of it replaced."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from schemas.dataset_card import ChannelMap, DatasetCard
from schemas.embodiment import Channel, ChannelKind, Embodiment, Gripper
from schemas.episode import EncodedView, Episode, EpisodeRef, Instruction, RawEpisode, Stream
from schemas.findings import Finding
from schemas.fingerprint import bytes_sha256
from schemas.time import TimeGrid
from validation.check import Subject, ViewEvidence

RATE = Fraction(10)
ARM = Embodiment(
    name="small_arm",
    title="A small arm",
    control_rate=RATE,
    proprio=(
        Channel(name="x", unit="m", kind=ChannelKind.POSITION, low=-1, high=1),
        Channel(name="y", unit="m", kind=ChannelKind.POSITION),
        Channel(name="z", unit="m", kind=ChannelKind.POSITION),
        Channel(name="joint", unit="rad", kind=ChannelKind.ANGLE),
        Channel(name="gripper", unit="1", kind=ChannelKind.GRIPPER),
    ),
    action=(
        Channel(name="x", unit="m", kind=ChannelKind.POSITION, low=-1, high=1),
        Channel(name="joint", unit="rad", kind=ChannelKind.ANGLE),
        Channel(name="gripper", unit="1", kind=ChannelKind.GRIPPER),
    ),
    views=("primary",),
    proprio_grippers=(Gripper(channel="gripper", open=1, closed=0),),
    action_grippers=(Gripper(channel="gripper", open=0, closed=1),),
)
CARD = DatasetCard(
    name="small_set",
    version=1,
    title="A small set",
    source="rlds",
    embodiment="small_arm",
    license="CC-BY-4.0",
    proprio=(ChannelMap(field="state"),),
    action=(ChannelMap(field="action", start=0, stop=3),),
    views={"front": "primary"},
)


def sound_proprio(num_steps: int = 60) -> np.ndarray:
    """A hand on a circle, a turning joint, a gripper that closes half-way: float64 [T, 5]."""
    phase = np.linspace(0, 2 * np.pi, num_steps)
    gripper = np.where(np.arange(num_steps) < num_steps // 2, 1.0, 0.1)
    return np.stack([0.5 * np.sin(phase), 0.5 * np.cos(phase), 0.2 + 0.1 * phase / 6, 0.8 * phase - 2, gripper], axis=1)


def sound_action(num_steps: int = 60) -> np.ndarray:
    """What makes the hand move that way, told one step ahead; its gripper counts the other way: float64 [T, 3]."""
    ahead = np.roll(sound_proprio(num_steps), -1, axis=0)
    if num_steps:
        ahead[-1] = sound_proprio(num_steps)[-1]
    return np.stack([ahead[:, 0], ahead[:, 3], 1 - ahead[:, 4]], axis=1)


def even_times(num_rows: int, rate: Fraction = RATE) -> np.ndarray:
    return TimeGrid(0, rate, num_rows).times_ns()


def moving_thumbs(num_frames: int = 60) -> np.ndarray:
    """A bright bar that wanders over a gradient: uint8 [F, 16, 24]."""
    thumbs = np.tile(np.linspace(40, 120, 24).astype(np.uint8), (num_frames, 16, 1))
    for frame in range(num_frames):
        thumbs[frame, :, (frame * 3) % 24] = 250
    return thumbs


def make_view(times_ns: np.ndarray, slot_key: str = "front") -> EncodedView:
    data = b"not decoded by any check"
    return EncodedView(slot_key, "mjpeg", "matroska", data, 320, 240, times_ns, bytes_sha256(data), "packed")


def make_subject(
    action: np.ndarray | None = None,
    proprio: np.ndarray | None = None,
    times_ns: np.ndarray | None = None,
    proprio_times_ns: np.ndarray | None = None,
    clock: Any = "declared",
    frames_ns: np.ndarray | None = None,
    thumbs: np.ndarray | None = None,
    texts: Sequence[str] = ("put the red cup on the plate",),
    extra: Mapping[str, np.ndarray] | None = None,
    embodiment: Embodiment = ARM,
    raw_findings: tuple[Finding, ...] = (),
    findings: tuple[Finding, ...] = (),
) -> Subject:
    """A sound subject of 60 steps unless a part is given; ``thumbs`` None leaves out the evidence."""
    proprio = sound_proprio() if proprio is None else proprio
    action = sound_action(len(proprio)) if action is None else action
    times_ns = even_times(len(action)) if times_ns is None else times_ns
    proprio_times_ns = times_ns if proprio_times_ns is None and len(proprio) == len(action) else proprio_times_ns
    proprio_times_ns = even_times(len(proprio)) if proprio_times_ns is None else proprio_times_ns
    frames_ns = times_ns if frames_ns is None else frames_ns
    streams = (
        Stream("action", action, times_ns, clock),
        Stream("state", proprio, proprio_times_ns, clock),
        *(Stream(name, values, even_times(len(values)), clock) for name, values in (extra or {}).items()),
    )
    view = make_view(frames_ns)
    instructions = tuple(Instruction(text, "language_instruction") for text in texts)
    ref = EpisodeRef("rlds", "sets/small", "small_set", "1.0.0", "train", "train/00000/000003", "state", 1000)
    raw = RawEpisode(ref, streams, (view,), instructions, RATE, "0" * 64, findings=raw_findings)
    episode = Episode(
        raw,
        CARD,
        embodiment,
        RATE,
        streams[0],
        replace(streams[1], name="proprio"),
        {"primary": view},
        instructions,
        None,
        findings=findings,
    )
    return Subject(episode, {} if thumbs is None else {"primary": ViewEvidence.of([thumbs])})


def by_rule(findings: Sequence[Finding]) -> dict[str, Finding]:
    """The findings by rule; fails where a rule spoke twice."""
    named = {finding.rule: finding for finding in findings}
    assert len(named) == len(findings), [finding.rule for finding in findings]
    return named
