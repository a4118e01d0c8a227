"""Layouts: ways in which ``wamloom sample`` writes its simulated recordings, so that each source has honest data.

A member module exports ``write(episodes: Sequence[SimulatedEpisode], folder: Path) -> None``.
"""
