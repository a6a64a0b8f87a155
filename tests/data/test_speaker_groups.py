from collections import Counter

import numpy as np
import pytest

from ser_cli.data.batch_plans import plan_epoch
from ser_cli.data.speaker_groups import draw_speaker_groups

EMOTIONS = ("angry", "calm", "happy", "sad")
CLIPS = {"a": 24, "b": 30, "c": 7, "alone": 1}
"""Of each speaker; as many of each emotion as that allows."""
IDS = [f"{speaker}-{number}-{EMOTIONS[number % 4]}" for speaker, count in CLIPS.items() for number in range(count)]


def speaker_of(identity: str) -> str:
    return identity.split("-", maxsplit=1)[0]


def emotion_of(identity: str) -> str:
    return identity.split("-")[2]


def drawn(seed: int = 0, size: int = 8, ids=IDS) -> list[list[str]]:
    rng = np.random.default_rng(seed)
    return draw_speaker_groups(ids, rng, size=size, speaker_of=speaker_of, emotion_of=emotion_of)


@pytest.mark.parametrize("size", [2, 5, 8, 1000])
def test_every_clip_stands_in_one_group_of_its_speaker(size):
    groups = drawn(size=size)
    assert sorted(identity for group in groups for identity in group) == sorted(IDS)
    assert all(len({speaker_of(identity) for identity in group}) == 1 for group in groups)


def test_the_groups_of_a_speaker_are_as_large_as_asked_for_or_equally_smaller():
    sizes = {speaker: sorted(len(g) for g in drawn() if speaker_of(g[0]) == speaker) for speaker in CLIPS}
    assert sizes == {"a": [8, 8, 8], "b": [7, 7, 8, 8], "c": [7], "alone": [1]}


@pytest.mark.parametrize("seed", range(20))
def test_each_group_has_its_share_of_every_emotion(seed):
    for group in drawn(seed):
        speaker = speaker_of(group[0])
        counts = Counter(map(emotion_of, group))
        for emotion in EMOTIONS:
            in_all = sum(speaker_of(i) == speaker and emotion_of(i) == emotion for i in IDS)
            assert abs(counts[emotion] - len(group) * in_all / CLIPS[speaker]) < 2


def test_a_rare_emotion_is_spread_over_the_groups():
    ids = [f"a-{number}-{'sad' if number < 4 else 'calm'}" for number in range(32)]
    for seed in range(20):
        assert [Counter(map(emotion_of, group))["sad"] for group in drawn(seed, ids=ids)] == [1, 1, 1, 1]


def test_a_seed_gives_one_draw_and_another_seed_another():
    assert drawn(1) == drawn(1)
    assert {frozenset(group) for group in drawn(1)} != {frozenset(group) for group in drawn(2)}
    assert [speaker_of(group[0]) for group in drawn(1)] != [speaker_of(group[0]) for group in drawn(2)]


def planned(batch_size: int, max_batch_s: float = 0.0, seen: list[list[str]] | None = None) -> list[tuple[str, ...]]:
    """Batches of an epoch; the groups that it drew are added to `seen`."""

    def draw(ids, rng):
        groups = draw_speaker_groups(ids, rng, size=8, speaker_of=speaker_of, emotion_of=emotion_of)
        if seen is not None:
            seen.extend(groups)
        return groups

    batches = plan_epoch(
        IDS,
        lambda identity: 16_000,
        np.random.default_rng(0),
        batch_size=batch_size,
        max_clip_s=15,
        max_batch_s=max_batch_s,
        draw_groups=draw,
    )
    return [batch.ids for batch in batches]


def test_batches_hold_whole_groups():
    groups: list[list[str]] = []
    batches = planned(batch_size=16, seen=groups)
    assert sorted(identity for batch in batches for identity in batch) == sorted(IDS)
    assert len(groups) == 9
    for group in groups:
        assert sum(set(group) <= set(batch) for batch in batches) == 1
    assert all(2 <= len(batch) <= 17 for batch in batches)  # a clip that would stand alone joins a full batch


def test_a_group_larger_than_a_batch_is_parted():
    batches = planned(batch_size=4)
    assert sorted(identity for batch in batches for identity in batch) == sorted(IDS)
    assert max(map(len, batches)) <= 5


def test_the_longest_batch_is_kept_with_groups_too():
    assert max(map(len, planned(batch_size=16, max_batch_s=10.0))) <= 10
