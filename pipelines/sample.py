"""Writes sample recordings of the simulated robots in the layouts that real recordings come in."""

from dataclasses import dataclass
from pathlib import Path

from pipelines import registry
from pipelines.simulate import ROBOTS, simulate
from pipelines.storage import remove_tree
from schemas.errors import UsageError


@dataclass(frozen=True, slots=True)
class SampleSet:
    """One data set of simulated recordings: a robot's episodes in one layout."""

    folder: str
    robot: str
    layout: str
    num_episodes: int
    num_steps: int


def write_sample(
    out: Path, layout: str = "rlds", num_episodes: int = 3, seed: int = 0, dry_run: bool = False
) -> list[SampleSet]:
    """Writes ``num_episodes`` of every robot that the layout can hold to ``out/<layout>/<robot>``; returns the sets.

    A set appears under its name only when it is whole. Equal arguments give equal bytes, and episode n is the same
    however many are made. Raises UsageError for an unknown layout, a count below one, a negative seed, or a set that is
    there already.
    """
    member = registry.load("layouts", layout)
    if num_episodes < 1:
        raise UsageError(f"{num_episodes} episodes make no data set", hint="ask for at least one")
    if seed < 0:
        raise UsageError(f"the seed {seed} is negative", hint="seeds are whole numbers from 0 on")
    held = getattr(member, "ROBOTS", [robot.name for robot in ROBOTS])
    robots = [robot for robot in ROBOTS if robot.name in held]
    targets = [out / layout / robot.name for robot in robots]
    for target in targets:
        if target.exists():
            raise UsageError("there is a data set already", str(target), "choose another folder, or remove this one")
    written: list[SampleSet] = []
    for robot, target in zip(robots, targets, strict=True):
        episodes = [simulate(robot, seed, index) for index in range(num_episodes)]
        if not dry_run:
            unfinished = target.with_name(f".{target.name}.partial")
            remove_tree(unfinished)
            unfinished.mkdir(parents=True)
            member.write(episodes, unfinished)
            unfinished.rename(target)
        num_steps = sum(episode.num_steps for episode in episodes)
        written.append(SampleSet(str(target), robot.name, layout, num_episodes, num_steps))
    return written
