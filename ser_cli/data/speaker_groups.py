"""Groups of clips of one speaker, for models that hear each clip against others of the same voice."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from itertools import pairwise

import numpy as np


def draw_speaker_groups(
    ids: Sequence[str],
    rng: np.random.Generator,
    *,
    size: int,
    speaker_of: Callable[[str], Hashable],
    emotion_of: Callable[[str], str],
) -> list[list[str]]:
    """Part the clips of each speaker into groups, and shuffle these.

    The groups of a speaker are equally large but for one clip, and never larger than asked for. Each has, as far as it
    goes, the speaker's share of every emotion: what its clips have in common is then the voice and not an emotion.

    Args:
        ids: the clips; each comes into one group.
        rng: source of every draw.
        size: clips in a group, at most.
        speaker_of: the speaker of a clip.
        emotion_of: its emotion.
    """
    clips: dict[Hashable, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for position in rng.permutation(len(ids)):
        identity = ids[position]
        clips[speaker_of(identity)][emotion_of(identity)].append(identity)
    groups = []
    for by_emotion in clips.values():
        # Each emotion is spread evenly, from a random start, over an order that is then cut.
        placed = [
            ((position + start) / len(same), identity)
            for same in by_emotion.values()
            for start in (rng.random(),)
            for position, identity in enumerate(same)
        ]
        ordered = [identity for _, identity in sorted(placed)]
        parts = -(-len(ordered) // size)
        edges = [len(ordered) * part // parts for part in range(parts + 1)]
        groups += [ordered[start:stop] for start, stop in pairwise(edges)]
    return [groups[position] for position in rng.permutation(len(groups))]
