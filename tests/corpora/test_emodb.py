from collections import Counter
from itertools import product
from pathlib import Path

import pytest

from ser_cli.corpora import emodb

CLIPS = {
    #      W   L   E  A   F  T   N
    "03": (14, 5, 1, 4, 7, 7, 11),
    "08": (12, 10, 0, 6, 11, 9, 10),
    "09": (13, 4, 8, 1, 4, 4, 9),
    "10": (10, 8, 1, 8, 4, 3, 4),
    "11": (11, 8, 2, 10, 8, 7, 9),
    "12": (12, 5, 2, 6, 2, 4, 4),
    "13": (12, 10, 8, 7, 10, 5, 9),
    "14": (16, 8, 8, 12, 8, 10, 7),
    "15": (13, 9, 5, 8, 6, 4, 11),
    "16": (14, 14, 11, 7, 11, 9, 5),
}
"""The published number of clips of each speaker and emotion."""
SENTENCES = ("a01", "a02", "a04", "a05", "a07", "b01", "b02", "b03", "b09", "b10")


def write_tree(folder: Path, suffix: str = ".wav") -> None:
    """The published numbers of clips under made-up sentences and versions; the files hold a few bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    for speaker, numbers in CLIPS.items():
        for letter, number in zip("WLEAFTN", numbers, strict=True):
            for sentence, version in list(product(SENTENCES, "ab"))[:number]:
                name = f"{speaker}{sentence}{letter}{version}"
                (folder / f"{name}{suffix}").write_text(name)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("emodb")
    write_tree(folder / "wav")
    for name in ("lablaut/03a01Fa.lablaut", "labsilb/03a01Fa.labsilb", "silb/03a01Fa.silb", "erklaerung.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes("0.1 Gefühl".encode("latin-1"))
    return folder


def test_the_published_tree_has_535_clips_in_the_published_numbers(published):
    listing = emodb.read(published)
    assert not listing.problems
    assert not listing.notes
    assert not listing.missing
    assert Counter(u.emotion for u in listing.utterances) == {
        "angry": 127,
        "bored": 81,
        "neutral": 79,
        "happy": 71,
        "fearful": 69,
        "sad": 62,
        "disgust": 46,
    }
    by_speaker = {"03": 49, "08": 58, "09": 43, "10": 38, "11": 55, "12": 35, "13": 61, "14": 69, "15": 56, "16": 71}
    assert Counter(u.speaker for u in listing.utterances) == by_speaker
    assert {u.speaker for u in listing.utterances if u.gender == "male"} == {"03", "10", "11", "12", "15"}
    assert {u.speaker for u in listing.utterances if u.gender == "female"} == {"08", "09", "13", "14", "16"}
    assert not [u for u in listing.utterances if u.speaker == "08" and u.emotion == "disgust"]
    assert [u.id for u in listing.utterances] == sorted(u.id for u in listing.utterances)


def test_the_shipped_counts_are_those_of_the_published_tree(published):
    listing = emodb.read(published)
    counts = emodb.CORPUS.counts
    assert counts.utterances == 535
    assert dict(counts.emotion) == Counter(u.emotion for u in listing.utterances)
    assert dict(counts.speaker) == Counter(u.speaker for u in listing.utterances)


def test_the_letters_are_german_so_a_is_fear_and_not_anger(tmp_path):
    for letter in "WLEAFTN":
        (tmp_path / f"11b09{letter}c.wav").touch()
    assert {u.id: u.emotion for u in emodb.read(tmp_path).utterances} == {
        "11b09Wc": "angry",
        "11b09Lc": "bored",
        "11b09Ec": "disgust",
        "11b09Ac": "fearful",
        "11b09Fc": "happy",
        "11b09Tc": "sad",
        "11b09Nc": "neutral",
    }


def test_a_clip_is_read_from_its_name(tmp_path):
    (tmp_path / "03a01Wa.WAV").touch()
    (clip,) = emodb.read(tmp_path).utterances
    assert (clip.id, clip.speaker, clip.gender, clip.emotion) == ("03a01Wa", "03", "male", "angry")
    assert clip.text == "Der Lappen liegt auf dem Eisschrank."
    assert clip.extra == (("sentence", "a01"), ("version", "a"))


def test_names_in_another_case_are_the_same_clips(tmp_path):
    (tmp_path / "16B10tD.flac").touch()
    (clip,) = emodb.read(tmp_path).utterances
    assert (clip.id, clip.emotion) == ("16b10Td", "sad")


def test_the_innermost_folder_and_a_doubled_tree_are_read_once(published, tmp_path):
    assert len(emodb.read(published / "wav").utterances) == 535
    write_tree(tmp_path / "wav")
    write_tree(tmp_path / "emodb" / "wav")
    listing = emodb.read(tmp_path)
    assert len(listing.utterances) == 535
    assert listing.notes == ("535 files left out, byte for byte the clip of the same name",)


def test_more_clips_than_those_of_the_papers_are_noted(tmp_path):
    write_tree(tmp_path)
    assert not emodb.read(tmp_path).notes
    (tmp_path / "03b10Ef.wav").touch()
    listing = emodb.read(tmp_path)
    assert len(listing.utterances) == 536
    (note,) = listing.notes
    assert note.startswith("536 clips, more than the 535")


@pytest.mark.parametrize(
    ("name", "words"),
    [("04a01Wa", "speaker 04"), ("03a03Wa", "sentence a03"), ("03c01Wa", "sentence c01"), ("03a01Xa", "letter X")],
)
def test_a_code_that_does_not_exist_is_named(tmp_path, name, words):
    (tmp_path / f"{name}.wav").touch()
    listing = emodb.read(tmp_path)
    assert not listing.utterances
    (problem,) = listing.problems
    assert problem.startswith(f"{tmp_path / name}.wav: ")
    assert words in problem


def test_hidden_files_and_other_names_are_left_out_and_links_in_a_circle_end(tmp_path):
    for name in ("03a01Wa.wav", "._03a01Wa.wav", ".DS_Store", "erkennung.txt", "03a01.wav"):
        (tmp_path / name).touch()
    (tmp_path / "again").symlink_to(tmp_path)
    listing = emodb.read(tmp_path)
    assert [u.id for u in listing.utterances] == ["03a01Wa"]
    assert listing.notes == ("1 file with a name of another kind left out",)
