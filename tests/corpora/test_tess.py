from collections import Counter
from itertools import product
from pathlib import Path

import pytest

from ser_cli.corpora import tess

WORDS = ["back", "bite", "food", *("".join(letters) for letters in product("bdgklm", "aeiou", "ntrsmlz"))][:200]
FOLDERS = {
    "OAF": ("OAF_angry", "OAF_disgust", "OAF_Fear", "OAF_happy", "OAF_neutral", "OAF_Pleasant_surprise", "OAF_Sad"),
    "YAF": ("YAF_angry", "YAF_disgust", "YAF_fear", "YAF_happy", "YAF_neutral", "YAF_pleasant_surprised", "YAF_sad"),
}
CODES = ("angry", "disgust", "fear", "happy", "neutral", "ps", "sad")


def write_tree(folder: Path, *, words: list[str] = WORDS, misname: bool = True) -> None:
    """The published tree with its one wrong name; the files hold a few bytes."""
    for speaker, inner in FOLDERS.items():
        for name, code in zip(inner, CODES, strict=True):
            (folder / name).mkdir(parents=True, exist_ok=True)
            for word in words:
                stem = f"{speaker}_{word}_{code}"
                written = "OA_bite_neutral" if misname and stem == "OAF_bite_neutral" else stem
                (folder / name / f"{written}.wav").write_text(stem)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tess")
    write_tree(folder / "TESS Toronto emotional speech set data")
    return folder


def test_the_published_tree_has_2800_clips_of_exactly_two_women(published):
    assert len(set(WORDS)) == 200
    listing = tess.read(published)
    assert not listing.problems
    assert not listing.missing
    assert Counter(u.emotion for u in listing.utterances) == dict.fromkeys(
        ("angry", "disgust", "fearful", "happy", "neutral", "surprised", "sad"), 400
    )
    assert Counter(u.speaker for u in listing.utterances) == {"OAF": 1400, "YAF": 1400}
    assert {u.gender for u in listing.utterances} == {"female"}
    assert {(u.speaker, dict(u.extra)["age"]) for u in listing.utterances} == {("OAF", "64"), ("YAF", "26")}
    assert [u.id for u in listing.utterances] == sorted(u.id for u in listing.utterances)


def test_the_shipped_counts_are_those_of_the_published_tree(published):
    listing = tess.read(published)
    counts = tess.CORPUS.counts
    assert counts.utterances == 2800
    assert dict(counts.emotion) == Counter(u.emotion for u in listing.utterances)
    assert dict(counts.speaker) == Counter(u.speaker for u in listing.utterances)


def test_the_misnamed_clip_is_listed_under_its_right_name_with_a_word(published):
    listing = tess.read(published)
    (clip,) = (u for u in listing.utterances if u.id == "OAF_bite_neutral")
    assert clip.path.endswith("OA_bite_neutral.wav")
    assert (clip.speaker, clip.emotion) == ("OAF", "neutral")
    assert listing.notes == ("OA_bite_neutral is published under that wrong name, and listed as OAF_bite_neutral",)


def test_any_other_clip_of_the_speaker_oa_is_a_problem(tmp_path):
    (tmp_path / "OA_back_neutral.wav").touch()
    listing = tess.read(tmp_path)
    assert not listing.utterances
    assert "speaker OA is not among OAF, YAF" in listing.problems[0]


def test_a_clip_is_read_from_its_name(tmp_path):
    (tmp_path / "YAF_food_ps.WAV").touch()
    (clip,) = tess.read(tmp_path).utterances
    assert (clip.id, clip.speaker, clip.emotion, clip.text) == ("YAF_food_ps", "YAF", "surprised", "Say the word food")
    assert clip.extra == (("age", "26"), ("word", "food"))


def test_pleasant_surprise_is_read_in_every_spelling(tmp_path):
    for word, spelling in (("back", "ps"), ("bite", "pleasant_surprise"), ("food", "pleasant_surprised")):
        (tmp_path / f"OAF_{word}_{spelling}.wav").touch()
    listing = tess.read(tmp_path)
    assert [u.id for u in listing.utterances] == ["OAF_back_ps", "OAF_bite_ps", "OAF_food_ps"]
    assert not listing.problems


def test_a_nested_second_copy_counts_once(tmp_path):
    write_tree(tmp_path, words=["back", "bite"])
    write_tree(tmp_path / "TESS Toronto emotional speech set data", words=["back", "bite"], misname=False)
    listing = tess.read(tmp_path)
    assert len(listing.utterances) == 28
    assert not listing.problems
    assert listing.notes[-1] == "28 files left out, byte for byte the clip of the same name"


def test_one_folder_is_read_as_the_source_itself(published):
    listing = tess.read(published / "TESS Toronto emotional speech set data" / "OAF_Pleasant_surprise")
    assert len(listing.utterances) == 200
    assert {u.emotion for u in listing.utterances} == {"surprised"}
    assert len(listing.missing) == 2600


def test_a_flat_copy_is_read(tmp_path):
    for speaker, word, code in product(("OAF", "YAF"), ("back", "food"), CODES):
        (tmp_path / f"{speaker}_{word}_{code}.flac").touch()
    listing = tess.read(tmp_path)
    assert len(listing.utterances) == 28
    assert not listing.missing


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("YAF_angry", "its name says speaker OAF, its folder YAF"),
        ("OAF_Sad", "its name says angry, its folder sad"),
        ("OAF_Pleasant_surprise", "its name says angry, its folder ps"),
        ("YAF/angry", "its name says speaker OAF, its folder YAF"),
        ("OAF/happy", "its name says angry, its folder happy"),
    ],
)
def test_a_folder_that_contradicts_a_name_is_a_problem(tmp_path, folder, words):
    path = tmp_path / folder / "OAF_back_angry.wav"
    path.parent.mkdir(parents=True)
    path.touch()
    listing = tess.read(tmp_path)
    assert not listing.utterances
    assert listing.problems == (f"{path}: {words}",)


def test_an_emotion_that_does_not_exist_is_named(tmp_path):
    (tmp_path / "OAF_back_bored.wav").touch()
    listing = tess.read(tmp_path)
    assert not listing.utterances
    assert "emotion 'bored' is not among angry" in listing.problems[0]


def test_what_is_missing_of_the_words_seen_is_named(tmp_path):
    write_tree(tmp_path, words=["back", "bite", "food"])
    (tmp_path / "YAF_sad" / "YAF_food_sad.wav").unlink()
    (tmp_path / "OAF_Fear" / "OAF_back_fear.wav").unlink()
    assert tess.read(tmp_path).missing == ("OAF_back_fear", "YAF_food_sad")


def test_hidden_files_and_other_names_are_left_out_and_links_in_a_circle_end(tmp_path):
    for name in ("OAF_back_sad.wav", "._OAF_back_sad.wav", ".DS_Store", "readme.txt", "noise.wav"):
        (tmp_path / name).touch()
    (tmp_path / "again").symlink_to(tmp_path)
    listing = tess.read(tmp_path)
    assert [u.id for u in listing.utterances] == ["OAF_back_sad"]
    assert listing.notes == ("1 file with a name of another kind left out",)
