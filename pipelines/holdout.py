"""Which episodes are measured on and not fitted to: chosen by a hash, never by position, copies of one recording together."""

from collections.abc import Collection, Iterable

from schemas.fingerprint import fingerprint


def families(episode_ids: Collection[str], twins: Iterable[tuple[str, str]]) -> list[frozenset[str]]:
    """``episode_ids`` in sets: two are in one if pairs of ``twins`` lead from one to the other, also by way of others."""
    above: dict[str, str] = {}

    def top(episode_id: str) -> str:
        while (over := above.get(episode_id, episode_id)) != episode_id:
            above[episode_id] = above.get(over, over)  # half of the way is left for the next who asks
            episode_id = over
        return episode_id

    for one, other in twins:
        above[top(one)] = top(other)
    found: dict[str, set[str]] = {}
    for episode_id in episode_ids:
        found.setdefault(top(episode_id), set()).add(episode_id)
    return [frozenset(family) for family in found.values()]


def validation_ids(episode_ids: Collection[str], fraction: float, twins: Iterable[tuple[str, str]] = ()) -> set[str]:
    """Episodes to validate on: about the part ``fraction`` of them, each for the hash of its own id, so that an episode
    stays on its side when others come or go. Families of ``twins`` stay whole and go by the least hash of their members.
    """
    chosen: set[str] = set()
    for family in families(episode_ids, twins):
        least = min(fingerprint("validation-1", episode_id) for episode_id in family)
        if int(least[:13], 16) < fraction * 16**13:  # 52 bits, which a double holds exactly
            chosen |= family
    return chosen


def held_out(episode_ids: Collection[str], holdout: float, twins: Iterable[tuple[str, str]] = ()) -> set[str]:
    """Episodes to measure on and not to fit to: about the part ``holdout`` of them, the first by a hash of their ids.

    Families of ``twins`` stay whole: one that is too large for what is still wanted is passed over, and where every one
    is, the smallest is taken. One family at least is held out and one remains to fit to; of a single family, and for
    ``holdout`` 0, none is held out.
    """
    ordered = sorted(
        families(episode_ids, twins),
        key=lambda family: min(fingerprint("holdout-1", episode_id) for episode_id in family),
    )
    if not holdout or len(ordered) < 2:
        return set()
    wanted = min(max(1, round(holdout * len(episode_ids))), len(episode_ids) - 1)
    held: set[str] = set()
    for family in ordered:
        if len(held) + len(family) <= wanted:
            held |= family
    smallest: frozenset[str] = min(ordered, key=len)
    return held or set(smallest)
