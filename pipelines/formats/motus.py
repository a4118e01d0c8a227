"""Motus: beside LeRobot v2.1, the embedding of each episode's instruction as ``t5_embedding/episode_000000.pt``.

What ``data/lerobot/lerobot_dataset.py`` of thu-ml/Motus reads: a tensor [L, D], unpadded, one for each episode. It finds the
file by ``t5_embedding_path`` of ``meta/episodes.jsonl``, relative to the folder of the set; or, with
``enable_t5_fallback=True``, by this very name, and then encodes nothing since the file is there. Parquet columns
``language_embedding`` would win over both.
"""

from pipelines.formats import Format
from pipelines.release_texts import EpisodeTextsFormat

FORMAT: Format = EpisodeTextsFormat("motus", beside="lerobot_v21")
