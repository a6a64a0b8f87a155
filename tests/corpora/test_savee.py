from collections import Counter
from pathlib import Path

import pytest

from ser_cli.corpora import savee

LETTERS = {"a": 15, "d": 15, "f": 15, "h": 15, "n": 30, "sa": 15, "su": 15}


def write_tree(folder: Path, *, flat: bool = False, suffix: str = ".wav") -> None:
    """The published tree by names, or its flat copy; the files hold a few bytes."""
    for speaker in ("DC", "JE", "JK", "KL"):
        inner = folder if flat else folder / speaker
        inner.mkdir(parents=True, exist_ok=True)
        for letters, clips in LETTERS.items():
            for number in range(1, clips + 1):
                clip = f"{letters}{number:02d}"
                name = f"{speaker}_{clip}" if flat else clip
                (inner / f"{name}{suffix}").write_text(f"{speaker} {clip}")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("savee")
    write_tree(folder / "AudioData")
    (folder / "AudioData" / "Info.txt").write_text("about")
    return folder


def test_the_published_tree_has_480_clips_in_the_published_numbers(published):
    listing = savee.read(published)
    assert not listing.problems
    assert not listing.notes
    assert not listing.missing
    assert Counter(u.emotion for u in listing.utterances) == {
        **dict.fromkeys(("angry", "disgust", "fearful", "happy", "sad", "surprised"), 60),
        "neutral": 120,
    }
    assert Counter(u.speaker for u in listing.utterances) == {"DC": 120, "JE": 120, "JK": 120, "KL": 120}
    assert {u.gender for u in listing.utterances} == {"male"}
    assert [u.id for u in listing.utterances] == sorted(u.id for u in listing.utterances)


def test_the_shipped_counts_are_those_of_the_published_tree(published):
    listing = savee.read(published)
    counts = savee.CORPUS.counts
    assert counts.utterances == 480
    assert dict(counts.emotion) == Counter(u.emotion for u in listing.utterances)
    assert dict(counts.speaker) == Counter(u.speaker for u in listing.utterances)


def test_an_official_clip_takes_its_speaker_from_the_folder(tmp_path):
    path = tmp_path / "AudioData" / "KL" / "su03.WAV"
    path.parent.mkdir(parents=True)
    path.touch()
    (clip,) = savee.read(tmp_path).utterances
    assert (clip.id, clip.emotion, clip.speaker, clip.gender) == ("KL_su03", "surprised", "KL", "male")
    assert clip.path == str(path.resolve())


@pytest.mark.parametrize(
    ("clip", "emotion"), [("sa01", "sad"), ("su01", "surprised"), ("a01", "angry"), ("n30", "neutral")]
)
def test_sadness_and_surprise_are_told_apart_in_every_form_of_name(tmp_path, clip, emotion):
    for name in (f"DC/{clip}.wav", f"ALL/JE_{clip}.wav", f"ALL/JK{clip}.flac"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    listing = savee.read(tmp_path)
    assert [(u.id, u.emotion) for u in listing.utterances] == [
        (f"DC_{clip}", emotion),
        (f"JE_{clip}", emotion),
        (f"JK_{clip}", emotion),
    ]


def test_the_folder_of_one_speaker_is_read_as_the_source_itself(published):
    listing = savee.read(published / "AudioData" / "JE")
    assert len(listing.utterances) == 120
    assert {u.speaker for u in listing.utterances} == {"JE"}
    assert len(listing.missing) == 360


def test_the_official_tree_and_its_flat_copy_count_once(tmp_path):
    write_tree(tmp_path / "AudioData")
    write_tree(tmp_path / "ALL", flat=True)
    listing = savee.read(tmp_path)
    assert len(listing.utterances) == 480
    assert not listing.problems
    assert listing.notes == ("480 files left out, byte for byte the clip of the same name",)


def test_the_flat_copy_alone_is_complete_too(tmp_path):
    write_tree(tmp_path, flat=True, suffix=".Wav")
    listing = savee.read(tmp_path)
    assert len(listing.utterances) == 480
    assert not listing.missing


def test_a_name_and_a_folder_that_disagree_about_the_speaker_are_a_problem(tmp_path):
    path = tmp_path / "DC" / "JE_a01.wav"
    path.parent.mkdir()
    path.touch()
    listing = savee.read(tmp_path)
    assert not listing.utterances
    assert listing.problems == (f"{path}: its name says speaker JE, its folder DC",)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("DC/x01.wav", "emotion code x"),
        ("DC/a16.wav", "number 16"),
        ("DC/n31.wav", "number 31"),
        ("DC/a00.wav", "number 00"),
        ("XY_a01.wav", "speaker XY"),
        ("a01.wav", "tells the speaker"),
    ],
)
def test_what_is_not_in_the_grammar_is_named(tmp_path, name, words):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    listing = savee.read(tmp_path)
    assert not listing.utterances
    (problem,) = listing.problems
    assert problem.startswith(f"{tmp_path / name}: ")
    assert words in problem


def test_hidden_files_and_other_names_are_left_out_and_links_in_a_circle_end(tmp_path):
    (tmp_path / "DC").mkdir()
    for name in ("a01.wav", "._a01.wav", ".DS_Store", "Info.txt", "noise reference.wav"):
        (tmp_path / "DC" / name).touch()
    (tmp_path / "DC" / "again").symlink_to(tmp_path)
    listing = savee.read(tmp_path)
    assert [u.id for u in listing.utterances] == ["DC_a01"]
    assert listing.notes == ("1 file with a name of another kind left out",)


def test_missing_clips_are_named(tmp_path):
    write_tree(tmp_path)
    (tmp_path / "KL" / "su15.wav").unlink()
    (tmp_path / "DC" / "n07.wav").unlink()
    assert savee.read(tmp_path).missing == ("DC_n07", "KL_su15")


def test_two_recordings_under_one_name_are_a_problem(tmp_path):
    write_tree(tmp_path)
    (tmp_path / "DC_a01.wav").write_text("another")
    listing = savee.read(tmp_path)
    assert len(listing.utterances) == 479
    assert "has the same name" in listing.problems[0]
