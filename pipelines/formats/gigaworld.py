"""GigaWorld-Policy: beside LeRobot v3.0, the embedding of each episode's instruction as ``t5_embedding/episode_000000.pt``.

What ``world_action_model/datasets/wam_lerobot_dataset.py`` of open-gigaai/giga-world-policy reads with ``t5_load_from="dir"``:
a tensor [L, D], unpadded, one for each episode, as ``scripts/compute_t5_embedding.py`` there writes it.
"""

from pipelines.formats import Format
from pipelines.release_texts import EpisodeTextsFormat

FORMAT: Format = EpisodeTextsFormat("gigaworld", beside="lerobot_v3")
