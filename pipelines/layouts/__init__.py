"""Layouts: ways in which ``wamloom sample`` writes its simulated recordings, so that each source has honest data.

A member module exports ``write(episodes: Sequence[SimulatedEpisode], folder: Path) -> None``, and ``ROBOTS``, the names of
the robots it can hold, if those are not all.
"""
