"""Hypothesis strategies for the nouns that laws are stated over."""

from fractions import Fraction

import numpy as np
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from schemas.embodiment import Channel, ChannelKind
from schemas.time import TimeGrid

RATES = [Fraction(5), Fraction(15, 2), Fraction(10), Fraction(15), Fraction(20), Fraction(30_000, 1001), Fraction(50)]

rates = st.sampled_from(RATES)


@st.composite
def time_grids(draw: st.DrawFn, min_steps: int = 0, max_steps: int = 60) -> TimeGrid:
    """Grids of up to ``max_steps`` steps that start within an hour of the episode's clock."""
    start = draw(st.integers(-(10**9), 3600 * 10**9))
    return TimeGrid(start, draw(rates), draw(st.integers(min_steps, max_steps)))


@st.composite
def times_ns(draw: st.DrawFn, min_rows: int = 1, max_rows: int = 40) -> np.ndarray:
    """Strictly increasing int64 times with uneven steps of 1 ms to 200 ms."""
    steps = draw(st.lists(st.integers(10**6, 2 * 10**8), min_size=min_rows, max_size=max_rows))
    return np.cumsum(np.array(steps, dtype=np.int64)) + draw(st.integers(-(10**9), 10**12))


def mixed_layout() -> tuple[Channel, ...]:
    """A layout with every channel kind, rotations in degrees and radians."""
    kinds = ChannelKind
    return (
        Channel(name="x", unit="m", kind=kinds.POSITION),
        Channel(name="joint", unit="rad", kind=kinds.ANGLE),
        *(Channel(name=f"q{axis}", kind=kinds.QUATERNION) for axis in "xyzw"),
        *(Channel(name=f"euler_{axis}", unit="rad", kind=kinds.EULER) for axis in "xyz"),
        Channel(name="heading", unit="deg", kind=kinds.ANGLE),
        *(Channel(name=f"vector_{axis}", unit="rad", kind=kinds.AXIS_ANGLE) for axis in "xyz"),
        Channel(name="gripper", kind=kinds.GRIPPER),
        Channel(name="command", kind=kinds.COMMAND),
        Channel(name="flag", kind=kinds.FLAG),
        Channel(name="rest", kind=kinds.UNKNOWN),
    )


def mixed_values(num_rows: int, seed: int) -> np.ndarray:
    """float64 [num_rows, 17] that fit ``mixed_layout``: honest rotations, and everything else anywhere in its range."""
    random = np.random.default_rng(seed)
    angles = random.uniform(-np.pi, np.pi, num_rows)
    turned = Rotation.random(num_rows, rng=random) if num_rows else Rotation.identity(0)
    quaternions = turned.as_quat().reshape(num_rows, 4) * random.choice([-1.0, 1.0], (num_rows, 1))
    return np.column_stack(
        [
            random.normal(size=num_rows),
            angles,
            quaternions,
            random.uniform(-np.pi, np.pi, (num_rows, 3)) * [1, 0.5, 1],
            random.uniform(0, 360, num_rows),
            turned.as_rotvec().reshape(num_rows, 3),
            random.random(num_rows),
            random.normal(size=num_rows),
            random.integers(0, 2, num_rows),
            random.normal(size=num_rows),
        ]
    )
