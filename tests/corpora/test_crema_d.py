import os
from collections import Counter
from pathlib import Path

import pytest

from ser_cli.corpora import crema_d

SENTENCES = ("IEO", "TIE", "IOM", "IWW", "TAI", "MTI", "IWL", "ITH", "DFA", "ITS", "TSI", "WSI")
NEVER_PUBLISHED = {
    *(f"{actor}_TIE_{emotion}_XX" for actor in (1007, 1008, 1009) for emotion in ("ANG", "DIS", "FEA", "HAP", "SAD")),
    *(f"{actor}_TSI_NEU_XX" for actor in range(1011, 1016)),
}
"""Twenty ids in the numbers of the real ones: three of each emotion and five neutral; which they are is made up."""
DEMOGRAPHICS = '"ActorID","Age","Sex","Race","Ethnicity"\n' + "".join(
    f'{actor},{20 + actor % 50},"{"Male" if actor <= 1048 else "Female"}","Caucasian","Not Hispanic"\n'
    for actor in range(1001, 1092)
)
"""48 men and 43 women as published; which of them is made up."""
VOTES = """"","FileName","VoiceVote","VoiceLevel","FaceVote","FaceLevel","MultiModalVote","MultiModalLevel"
"1","1001_IEO_ANG_LO","N","45","A:S","24.33:63.33","A","29.5"
"2","1001_IEO_ANG_MD","D:F:S","59.67:34.33:58.00",NA,NA,"D","71"
"""


def published_names() -> list[str]:
    """The 7,442 published stems, one of them misnamed."""
    names = []
    for actor in range(1001, 1092):
        for sentence in SENTENCES:
            names.append(f"{actor}_{sentence}_NEU_XX")
            for emotion in ("ANG", "DIS", "FEA", "HAP", "SAD"):
                levels = ("LO", "MD", "HI") if sentence == "IEO" else ("XX",)
                names += [f"{actor}_{sentence}_{emotion}_{level}" for level in levels]
    kept = [name for name in names if name not in NEVER_PUBLISHED]
    return ["1040_ITH_SAD_X" if name == "1040_ITH_SAD_XX" else name for name in kept]


def write_clips(paths: list[Path], clip: Path) -> None:
    """Many files of the same few bytes: links to one, which are made much faster than files."""
    clip.write_text("clip")
    for path in paths:
        os.link(clip, path)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    root = tmp_path_factory.mktemp("crema") / "CREMA-D"
    (root / "processedResults").mkdir(parents=True)
    (root / "VideoDemographics.csv").write_text(DEMOGRAPHICS)
    (root / "processedResults" / "summaryTable.csv").write_text(VOTES)
    for folder, suffix in (("AudioWAV", "wav"), ("AudioMP3", "mp3")):
        (root / folder).mkdir()
        write_clips([root / folder / f"{name}.{suffix}" for name in published_names()], root.parent / "clip")
    return root


@pytest.fixture(scope="module")
def listing(published):
    return crema_d.read(published)


def test_the_published_tree_lists_7441_clips_in_the_published_numbers(listing):
    assert len(published_names()) == 7442
    assert not listing.problems
    assert not listing.missing
    assert len(listing.utterances) == 7441
    assert Counter(u.emotion for u in listing.utterances) == {
        **dict.fromkeys(("angry", "disgust", "fearful", "happy"), 1271),
        "neutral": 1087,
        "sad": 1270,
    }
    levels = Counter(dict(u.extra)["level"] for u in listing.utterances)
    assert levels == {"low": 455, "medium": 455, "high": 455, "unspecified": 6076}
    assert {u.speaker for u in listing.utterances} == {str(actor) for actor in range(1001, 1092)}
    men = {u.speaker for u in listing.utterances if u.gender == "male"}
    women = {u.speaker for u in listing.utterances if u.gender == "female"}
    assert (len(men), len(women)) == (48, 43)
    assert [u.id for u in listing.utterances] == sorted(u.id for u in listing.utterances)


def test_the_shipped_counts_are_those_of_the_published_tree(listing):
    counts = crema_d.CORPUS.counts
    assert counts.utterances == 7441
    assert dict(counts.emotion) == Counter(u.emotion for u in listing.utterances)


def test_the_lossless_file_is_taken_and_every_departure_is_noted(listing):
    assert {Path(u.path).suffix for u in listing.utterances} == {".wav"}
    assert listing.notes == (
        "2 files of 1076_MTI_SAD_XX, which is known to hold no signal, left out",
        "1040_ITH_SAD_X is published under that wrong name, and listed as 1040_ITH_SAD_XX",
        "7,441 files left out, the same clip in another format",
    )
    (clip,) = (u for u in listing.utterances if u.id == "1040_ITH_SAD_XX")
    assert clip.path.endswith("1040_ITH_SAD_X.wav")


def test_the_acted_emotion_is_listed_and_what_listeners_heard_stands_beside_it(listing):
    low, medium = (next(u for u in listing.utterances if u.id == f"1001_IEO_ANG_{level}") for level in ("LO", "MD"))
    assert (low.emotion, low.text, low.gender) == ("angry", "It's eleven o'clock", "male")
    assert dict(low.extra) == {
        "level": "low",
        "sentence": "IEO",
        "voice_vote": "neutral",
        "face_vote": "angry|sad",
        "multimodal_vote": "angry",
        "age": "21",
    }
    assert dict(medium.extra) == {
        "level": "medium",
        "sentence": "IEO",
        "voice_vote": "disgust|fearful|sad",
        "multimodal_vote": "disgust",
        "age": "21",
    }


def test_the_folder_of_audio_is_read_with_the_tables_beside_it(published):
    alone = crema_d.read(published / "AudioMP3")
    assert len(alone.utterances) == 7441
    assert {Path(u.path).suffix for u in alone.utterances} == {".mp3"}
    assert alone.utterances[0].gender == "male"


def test_without_the_tables_gender_is_unknown_and_that_is_noted(tmp_path):
    (tmp_path / "1091_WSI_DIS_XX.WAV").touch()
    found = crema_d.read(tmp_path)
    (clip,) = found.utterances
    assert (clip.id, clip.emotion, clip.speaker, clip.gender) == ("1091_WSI_DIS_XX", "disgust", "1091", "")
    assert clip.extra == (("level", "unspecified"), ("sentence", "WSI"))
    assert "no VideoDemographics.csv found, so gender and age are unknown" in found.notes


def test_a_doubled_tree_and_names_in_lower_case_count_once(tmp_path):
    for name in ("AudioWAV/1001_DFA_ANG_XX.wav", "copy/1001_DFA_ANG_XX.wav", "1001_dfa_ang_xx.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("same")
    found = crema_d.read(tmp_path)
    assert [u.id for u in found.utterances] == ["1001_DFA_ANG_XX"]
    assert "2 files left out, byte for byte the clip of the same name" in found.notes


def test_pointers_of_git_lfs_are_told_apart_from_audio(tmp_path):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 84844\n"
    for name in ("AudioWAV/1001_DFA_ANG_XX.wav", "AudioMP3/1001_DFA_ANG_XX.mp3", "AudioWAV/1001_DFA_SAD_XX.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(pointer)
    (tmp_path / "AudioMP3" / "1001_DFA_SAD_XX.mp3").write_bytes(b"ID3")
    found = crema_d.read(tmp_path)
    assert [Path(u.path).name for u in found.utterances] == ["1001_DFA_SAD_XX.mp3"]
    assert found.problems == (f"{tmp_path}: 1 clip only as Git LFS pointers, without audio; run `git lfs pull` there",)
    assert "1 file with a Git LFS pointer to a clip at hand left out" in found.notes


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("1000_DFA_ANG_XX", "actor 1000"),
        ("1092_DFA_ANG_XX", "actor 1092"),
        ("1001_ABC_ANG_XX", "sentence ABC"),
        ("1001_DFA_SUR_XX", "emotion SUR"),
        ("1001_DFA_ANG_X", "level X "),
    ],
)
def test_a_code_that_does_not_exist_is_named(tmp_path, name, words):
    (tmp_path / f"{name}.wav").touch()
    found = crema_d.read(tmp_path)
    assert not found.utterances
    (problem,) = found.problems
    assert problem.startswith(f"{tmp_path / name}.wav: ")
    assert words in problem


def test_missing_ids_are_those_of_the_grammar_and_twenty_too_many(tmp_path):
    names = [name for name in published_names() if name not in ("1001_DFA_ANG_XX", "1091_IEO_SAD_HI")]
    write_clips([tmp_path / f"{name}.wav" for name in names], tmp_path / "clip")
    found = crema_d.read(tmp_path)
    assert len(found.utterances) == 7439
    assert found.missing == tuple(sorted({*NEVER_PUBLISHED, "1001_DFA_ANG_XX", "1091_IEO_SAD_HI"}))
    assert "20 of the missing ids were never published; nothing says which" in found.notes


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_tables_are_read_in_any_encoding_and_with_line_ends_of_windows(tmp_path, encoding):
    (tmp_path / "1002_DFA_ANG_XX.wav").touch()
    text = 'ActorID,Age,Sex,Race,Ethnicity\r\n1002,21,"Female",Caucasian,café\r\n'
    (tmp_path / "VideoDemographics.csv").write_bytes(text.encode(encoding))
    (clip,) = crema_d.read(tmp_path).utterances
    assert (clip.gender, dict(clip.extra)["age"]) == ("female", "21")


def test_rows_that_cannot_be_read_or_contradict_each_other_are_problems(tmp_path):
    (tmp_path / "1002_DFA_ANG_XX.wav").touch()
    rows = "1002,21,Female\n1002,21,Male\n1003,30,unknown\n1004,,Male\n"
    table = tmp_path / "VideoDemographics.csv"
    table.write_text("ActorID,Age,Sex\n" + rows)
    votes = tmp_path / "summaryTable.csv"
    votes.write_text("fileName,VoiceVote,FaceVote,MultiModalVote\n1002_DFA_ANG_XX,A,Q,A\n")
    found = crema_d.read(tmp_path)
    assert found.utterances[0].gender == ""
    assert [problem.split(": ")[:2] for problem in found.problems] == [
        [str(table), "line 3"],
        [str(table), "line 4"],
        [str(votes), "line 2"],
    ]


def test_hidden_files_and_other_names_are_left_out_and_links_in_a_circle_end(tmp_path):
    for name in ("1001_DFA_ANG_XX.wav", "._1001_DFA_ANG_XX.wav", ".DS_Store", "noise.wav"):
        (tmp_path / name).touch()
    (tmp_path / "again").symlink_to(tmp_path)
    found = crema_d.read(tmp_path)
    assert [u.id for u in found.utterances] == ["1001_DFA_ANG_XX"]
    assert "1 file with a name of another kind left out" in found.notes
