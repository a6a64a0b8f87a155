import json
import os
from collections import Counter
from pathlib import Path

import pytest

from ser_cli.corpora import ravdess
from ser_cli.data.protocols import shipped_protocols


def published_names() -> list[str]:
    """The names of the 1,440 published clips."""
    return [
        f"03-01-{emotion:02d}-{intensity:02d}-{statement:02d}-{repetition:02d}-{actor:02d}"
        for actor in range(1, 25)
        for emotion in range(1, 9)
        for intensity in ((1, 2) if emotion > 1 else (1,))
        for statement in (1, 2)
        for repetition in (1, 2)
    ]


def write_tree(folder: Path, suffix: str = ".wav") -> None:
    """The published tree by names; the files hold a few bytes."""
    for name in published_names():
        path = folder / f"Actor_{name[-2:]}" / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def test_the_published_tree_has_1440_clips_in_the_published_numbers(tmp_path):
    write_tree(tmp_path)
    listing = ravdess.read(tmp_path)
    assert not listing.problems
    assert Counter(u.emotion for u in listing.utterances) == {
        "neutral": 96,
        **dict.fromkeys(("calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"), 192),
    }
    assert set(Counter(u.speaker for u in listing.utterances).values()) == {60}
    assert all(u.gender == ("male" if int(u.speaker) % 2 else "female") for u in listing.utterances)
    assert [u.id for u in listing.utterances] == sorted(u.id for u in listing.utterances)


def test_a_clip_is_read_from_its_name(tmp_path):
    path = tmp_path / "Actor_12" / "03-01-06-01-02-01-12.WAV"
    path.parent.mkdir()
    path.touch()
    (clip,) = ravdess.read(tmp_path).utterances
    assert (clip.id, clip.emotion, clip.speaker, clip.gender) == (
        "03-01-06-01-02-01-12",
        "fearful",
        "12",
        "female",
    )
    assert clip.text == "Dogs are sitting by the door"
    assert clip.extra == (("intensity", "normal"), ("repetition", "01"))


def test_a_doubled_tree_is_counted_once(tmp_path):
    write_tree(tmp_path)
    write_tree(tmp_path / "audio_speech_actors_01-24")
    listing = ravdess.read(tmp_path)
    assert len(listing.utterances) == 1440
    assert listing.notes == ("1,440 files left out, byte for byte the clip of the same name",)


def test_two_recordings_under_one_name_are_named(tmp_path):
    write_tree(tmp_path)
    other = tmp_path / "copy" / "03-01-01-01-01-01-01.wav"
    other.parent.mkdir()
    other.write_text("something else")
    listing = ravdess.read(tmp_path)
    assert len(listing.utterances) == 1439
    assert "has the same name" in listing.problems[0]


def test_song_video_hidden_files_and_other_names_are_left_out_with_a_word(tmp_path):
    for name in (
        "03-01-01-01-01-01-01.flac",
        "._03-01-01-01-01-01-01.flac",
        ".DS_Store",
        "03-02-01-01-01-01-01.flac",
        "01-01-01-01-01-01-01.flac",
        "notes.wav",
        "readme.txt",
    ):
        (tmp_path / name).touch()
    listing = ravdess.read(tmp_path)
    assert len(listing.utterances) == 1
    assert sorted(listing.notes) == [
        "1 file from video left out",
        "1 file of song left out",
        "1 file with a name of another kind left out",
    ]


@pytest.mark.parametrize("name", ["03-01-09-01-01-01-01", "03-01-01-03-01-01-01", "03-01-01-01-01-01-25"])
def test_a_code_that_does_not_exist_is_named(tmp_path, name):
    (tmp_path / f"{name}.wav").touch()
    listing = ravdess.read(tmp_path)
    assert not listing.utterances
    assert name in listing.problems[0]


def test_the_balanced_protocol_tests_two_men_and_two_women_in_each_fold():
    protocol = next(p for p in shipped_protocols("ravdess") if p.name == "ravdess-6-balanced")
    assert sorted(actor for fold in protocol.test for actor in fold) == [f"{a:02d}" for a in range(1, 25)]
    assert all(sum(int(actor) % 2 for actor in fold) == 2 for fold in protocol.test)


def test_the_emobox_protocol_tests_every_actor_once():
    protocol = shipped_protocols("ravdess")[0]
    assert protocol.name == "ravdess-6-emobox"
    assert sorted(actor for fold in protocol.test for actor in fold) == [f"{a:02d}" for a in range(1, 25)]
    assert [len(fold) for fold in protocol.test] == [4] * 6


@pytest.mark.corpus
def test_the_emobox_protocol_equals_the_oracle():
    oracle = json.loads((Path(os.environ["SER_TEST_DATA"]).parent / "oracles.json").read_text())
    actors = oracle["ravdess"]["emobox_test_actors"]
    expected = tuple(tuple(f"{a:02d}" for a in actors[str(k)]) for k in range(1, 7))
    assert shipped_protocols("ravdess")[0].test == expected


@pytest.mark.corpus
def test_the_real_recordings_are_all_found():
    listing = ravdess.read(Path(os.environ["SER_TEST_DATA"]) / "ravdess")
    assert len(listing.utterances) == 1440
    assert not listing.problems
