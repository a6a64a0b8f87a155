import os
from collections import Counter
from pathlib import Path

import pytest

from ser_cli.corpora import esd

EMOTIONS = ("Neutral", "Angry", "Happy", "Sad", "Surprise")
"""In the order of the published numbers: 000001 to 000350 are neutral, and so on."""
CHINESE = ("中立", "生气", "快乐", "伤心", "惊喜")
SPEAKERS = tuple(f"{number:04d}" for number in range(1, 21))
ENCODINGS = {"0001": "gb2312", "0003": "utf-16", "0011": "utf-8", "0016": "latin-1"}


def write_clips(paths: list[Path], clip: Path) -> None:
    """Many files of the same few bytes: links to one, which are made much faster than files."""
    clip.write_text("clip")
    for path in paths:
        os.link(clip, path)


def emotion_of(number: int) -> str:
    return EMOTIONS[(number - 1) // 350]


def text_lines(speaker: str, words: tuple[str, ...] = EMOTIONS) -> str:
    said = "打远一看,它们的确很是美丽," if speaker <= "0010" else "The café is warm."
    return "".join(f"{speaker}_{n:06d}\t{said}\t{words[(n - 1) // 350]}\r\n" for n in range(1, 1751))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Mandarin speakers in the newer layout, English ones in the older, text files in several encodings."""
    folder = tmp_path_factory.mktemp("esd")
    root = folder / "Emotion Speech Dataset"
    clips: list[Path] = []
    for speaker in SPEAKERS:
        for start in range(1, 1751, 350):
            emotion = root / speaker / emotion_of(start)
            # The older release parted each emotion: 20 for evaluation, 30 for test, 300 for training.
            parts = [emotion] if speaker <= "0010" else [emotion / name for name in ("evaluation", "test", "train")]
            for part in parts:
                part.mkdir(parents=True)
            for n in range(start, start + 350):
                place = 0 if n < start + 20 else 1 if n < start + 50 else 2
                clips.append(parts[min(place, len(parts) - 1)] / f"{speaker}_{n:06d}.wav")
        words = CHINESE if speaker in ("0001", "0003") else EMOTIONS
        text = text_lines(speaker, words).encode(ENCODINGS.get(speaker, "utf-8"))
        (root / speaker / f"{speaker}.txt").write_bytes(text)
    (root / "ReadMe.txt").write_text("about")
    write_clips(clips, folder / "clip")
    return root


@pytest.fixture(scope="module")
def listing(published):
    return esd.read(published.parent)


def test_the_published_tree_has_35000_clips_in_the_published_numbers(listing):
    assert not listing.problems
    assert not listing.notes
    assert not listing.missing
    assert Counter(u.emotion for u in listing.utterances) == dict.fromkeys(
        ("angry", "happy", "neutral", "sad", "surprised"), 7000
    )
    assert Counter(u.speaker for u in listing.utterances) == dict.fromkeys(SPEAKERS, 1750)
    men = {"0004", "0005", "0006", "0008", "0010", "0011", "0012", "0013", "0014", "0020"}
    assert {u.speaker for u in listing.utterances if u.gender == "male"} == men
    assert {u.speaker for u in listing.utterances if u.gender == "female"} == {*SPEAKERS} - men
    assert [u.id for u in listing.utterances] == sorted(u.id for u in listing.utterances)


def test_the_shipped_counts_are_those_of_the_published_tree(listing):
    counts = esd.CORPUS.counts
    assert counts.utterances == 35000
    assert dict(counts.emotion) == Counter(u.emotion for u in listing.utterances)
    assert dict(counts.speaker) == Counter(u.speaker for u in listing.utterances)


def test_every_text_is_read_in_the_encoding_of_its_speaker(listing):
    texts = {u.speaker: u.text for u in listing.utterances}
    assert {texts[speaker] for speaker in SPEAKERS[:10]} == {"打远一看,它们的确很是美丽,"}
    assert {texts[speaker] for speaker in SPEAKERS[10:]} == {"The café is warm."}


def test_language_and_the_number_of_the_shared_sentence_are_told(listing):
    extra = {u.id: dict(u.extra) for u in listing.utterances}
    assert extra["0010_000350"] == {"language": "Mandarin", "sentence": "350"}
    assert extra["0011_000351"] == {"language": "English", "sentence": "001"}
    assert extra["0015_000875"]["sentence"] == extra["0015_000175"]["sentence"] == "175"
    assert set(Counter(dict(u.extra)["sentence"] for u in listing.utterances).values()) == {100}


def test_one_speaker_and_one_emotion_are_read_as_the_source_itself(published):
    speaker = esd.read(published / "0012")
    assert len(speaker.utterances) == 1750
    assert len(speaker.missing) == 19 * 1750
    assert not any(identity.startswith("0012") for identity in speaker.missing)
    emotion = esd.read(published / "0002" / "Surprise")
    assert len(emotion.utterances) == 350
    assert {u.emotion for u in emotion.utterances} == {"surprised"}
    of_speaker = [identity for identity in emotion.missing if identity.startswith("0002")]
    assert of_speaker[0] == "0002_000001"
    assert len(of_speaker) == 1400


def write_flat(folder: Path, speaker: str, lines: str, clips: tuple[int, ...] = (1, 351), **encoding: str) -> None:
    (folder / speaker).mkdir(parents=True)
    for number in clips:
        (folder / speaker / f"{speaker}_{number:06d}.WAV").touch()
    (folder / speaker / f"{speaker}.txt").write_bytes(lines.encode(encoding.get("encoding", "utf-8")))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb2312", "gb18030", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_flat_folder_takes_the_emotion_from_the_text_file(tmp_path, encoding):
    write_flat(tmp_path, "0009", "0009_000001\t你好\t中立\r\n0009_000351\t你好\t生气\r\n", encoding=encoding)
    listing = esd.read(tmp_path)
    assert [(u.id, u.emotion, u.text) for u in listing.utterances] == [
        ("0009_000001", "neutral", "你好"),
        ("0009_000351", "angry", "你好"),
    ]
    assert not listing.problems


def test_a_flat_clip_that_no_text_file_tells_of_is_a_problem(tmp_path):
    write_flat(tmp_path, "0011", "0011_000001\tHi.\tNeutral\n")
    listing = esd.read(tmp_path)
    assert [u.id for u in listing.utterances] == ["0011_000001"]
    clip = tmp_path / "0011" / "0011_000351.WAV"
    assert listing.problems == (f"{clip}: neither a folder nor 0011.txt tells its emotion",)


def test_lines_that_are_not_three_fields_are_counted(tmp_path):
    lines = "0011_000001\tHi.\tNeutral\n\n0011_000351 Oh Angry\n0011_000352\tOh.\n0011_000353\tOh.\tBored\n"
    write_flat(tmp_path, "0011", lines, clips=(1,))
    listing = esd.read(tmp_path)
    assert len(listing.utterances) == 1
    assert listing.notes == ("3 lines of text files that cannot be read left out",)


def test_a_folder_and_a_text_file_that_disagree_are_a_problem(tmp_path):
    clip = tmp_path / "0013" / "Angry" / "0013_000351.wav"
    clip.parent.mkdir(parents=True)
    clip.touch()
    (tmp_path / "0013" / "0013.txt").write_text("0013_000351\tOh.\tHappy\n")
    listing = esd.read(tmp_path)
    assert not listing.utterances
    assert listing.problems == (f"{clip}: its folder says angry, 0013.txt happy",)


def test_one_clip_in_the_folders_of_two_emotions_is_a_problem_even_where_the_files_are_equal(tmp_path):
    for emotion in ("Angry", "Sad"):
        (tmp_path / "0013" / emotion).mkdir(parents=True)
        (tmp_path / "0013" / emotion / "0013_000351.wav").touch()
    listing = esd.read(tmp_path)
    assert not listing.utterances
    assert listing.problems[0].endswith("0013_000351.wav: its folders say angry and sad")


def test_text_files_that_contradict_each_other_are_a_problem_and_the_clip_is_left_out(tmp_path):
    write_flat(tmp_path, "0011", "0011_000001\tHi.\tNeutral\n0011_000351\tOh.\tAngry\n0011_000351\tOh.\tSad\n")
    listing = esd.read(tmp_path)
    assert [u.id for u in listing.utterances] == ["0011_000001"]
    text = tmp_path / "0011" / "0011.txt"
    assert listing.problems == (f"{text}: says sad of 0011_000351, another line angry",)


def test_a_clip_in_the_folder_of_another_speaker_is_a_problem(tmp_path):
    clip = tmp_path / "0012" / "Sad" / "0013_001051.wav"
    clip.parent.mkdir(parents=True)
    clip.touch()
    listing = esd.read(tmp_path)
    assert not listing.utterances
    assert listing.problems == (f"{clip}: its name says speaker 0013, its folder 0012",)


@pytest.mark.parametrize(
    ("name", "words"), [("0021_000001", "speaker 0021"), ("0001_001751", "number 001751"), ("0001_000000", "000000")]
)
def test_a_name_that_is_not_in_the_grammar_is_named(tmp_path, name, words):
    clip = tmp_path / "Sad" / f"{name}.wav"
    clip.parent.mkdir()
    clip.touch()
    listing = esd.read(tmp_path)
    assert not listing.utterances
    (problem,) = listing.problems
    assert problem.startswith(f"{clip}: ")
    assert words in problem


def test_both_releases_side_by_side_count_once(tmp_path):
    for folder in ("old/0014/Sad/train", "new/0014/Sad", "new/0014/0014/Sad"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "0014_001051.wav").write_text("same")
    listing = esd.read(tmp_path)
    assert [(u.id, u.emotion) for u in listing.utterances] == [("0014_001051", "sad")]
    assert listing.notes == ("2 files left out, byte for byte the clip of the same name",)


def test_missing_numbers_are_named(tmp_path):
    folder = tmp_path / "0020" / "Happy"
    folder.mkdir(parents=True)
    write_clips([folder / f"0020_{number:06d}.wav" for number in range(1, 1750)], tmp_path / "clip")
    assert [i for i in esd.read(tmp_path).missing if i.startswith("0020")] == ["0020_001750"]


def test_hidden_files_and_other_names_are_left_out_and_links_in_a_circle_end(tmp_path):
    folder = tmp_path / "0020" / "Happy"
    folder.mkdir(parents=True)
    for name in ("0020_000701.wav", "._0020_000701.wav", ".DS_Store", "noise.wav"):
        (folder / name).touch()
    (folder / "again").symlink_to(tmp_path)
    listing = esd.read(tmp_path)
    assert [u.id for u in listing.utterances] == ["0020_000701"]
    assert listing.notes == ("1 file with a name of another kind left out",)
