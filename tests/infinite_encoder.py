"""A text encoder of numbers that no half precision holds, infinite for one prompt."""

from collections.abc import Mapping, Sequence

import numpy as np

from pipelines.text_encoders.hashed import Hashed


class Infinite(Hashed):
    name = "infinite"

    def encode(self, prompts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        values, mask = super().encode(prompts)
        values[:, 0, 0] = [np.inf if prompt == "bad" else 1e5 for prompt in prompts]
        return values, mask


def load(weights: str | None, options: Mapping[str, int | float | str | bool]) -> Infinite:
    return Infinite(8, 4)
