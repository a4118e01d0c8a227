"""FAST on whole batches against the published algorithm chunk by chunk, on the same vocabulary and the same chunks.

Both use the BPE of the ``tokenizers`` library, so the ratio is what batches and threads give: the wall ratio grows with
the cores. Tokens are compared before anything is timed. Real chunks and the universal vocabulary where they lie beside the
project (see tests/real.py), else simulated motion and a vocabulary fitted to it.

Measured on two hyperthreads, both busy with other work: 1.8 to 2.0 x CPU and wall. Nine tenths of a batch's time are spent in
the library's encode, which both sides pay.
"""

import json
from pathlib import Path

import numpy as np
from scipy.fft import dct
from tokenizers import Tokenizer

from benchmarks.side_by_side import compare, machine
from pipelines.tokenizers import fast
from tests.real import ROOT

HORIZON = 15


def real_chunks(folder: Path) -> np.ndarray:
    """float64 [N, 15, 8]: joint velocities and gripper commands of DROID, q01..q99 mapped to -1..1, from every step on."""
    names = ("action.joint_velocity", "action.gripper_position")
    episodes = []
    for path in sorted(folder.glob("*/*.json")):
        plain = json.loads(path.read_text())
        columns = [np.array(plain[name]).reshape(plain["raw_length"], -1) for name in names]
        episodes.append(np.concatenate(columns, axis=1))
    q01, q99 = np.quantile(np.concatenate(episodes), [0.01, 0.99], axis=0)
    normalized = [(rows - q01) / (q99 - q01) * 2 - 1 for rows in episodes]
    return np.stack([rows[start : start + HORIZON] for rows in normalized for start in range(len(rows) - HORIZON + 1)])


def one_by_one(vocabulary: Tokenizer, scale: float, min_token: int, chunks: np.ndarray) -> list[list[int]]:
    """The published algorithm: for each chunk the transform, the text and its tokens."""
    tokens = []
    for chunk in chunks:
        coefficients = np.around(dct(chunk, axis=0, norm="ortho") * scale)
        text = "".join(map(chr, (coefficients.flatten() - min_token).astype(int)))
        tokens.append(vocabulary.encode(text).ids)
    return tokens


def main() -> None:
    """Prints the comparison."""
    print(machine())
    recordings = ROOT / "ctrlworld_droid" / "droid_subset" / "annotation"
    published = ROOT / "fast_tokenizer" / "universal_fast_plus"
    if recordings.exists() and published.exists():
        title, chunks, tokenizer = "real DROID chunks, FAST+", real_chunks(recordings), fast.load_published(published)
        vocabulary = Tokenizer.from_file(str(published / "tokenizer.json"))
    else:
        steps = np.random.default_rng(0).normal(0, 0.1, (2400, HORIZON, 8))
        title, chunks = "simulated chunks, fitted FAST", np.cumsum(steps, axis=1)
        tokenizer = fast.fit(chunks, normalize=False)
        vocabulary = Tokenizer.from_str(tokenizer.vocabulary.to_str())
    given = (vocabulary, tokenizer.scale, tokenizer.min_token, chunks)
    assert [row.tolist() for row in tokenizer.encode(chunks)] == one_by_one(*given)
    compare(
        f"{title}, {chunks.shape[1]} x {chunks.shape[2]}",
        ("batches", lambda: [tokenizer.encode(chunks) for _ in range(4)] and None),
        ("chunk by chunk", lambda: [one_by_one(*given) for _ in range(4)] and None),
        4 * len(chunks),
        "chunk",
        rounds=7,
    )


if __name__ == "__main__":
    main()
