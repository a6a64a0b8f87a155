import csv
import io
import os
from collections import Counter
from pathlib import Path

import pytest

from ser_cli.corpora import meld

HEADER = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime"
FOLDERS = {
    "train": "train/train_splits",
    "dev": "dev/dev_splits_complete",
    "test": "test/output_repeated_splits_test",
}
PUBLISHED = {
    "train": {
        "neutral": 4710,
        "joy": 1743,
        "surprise": 1205,
        "anger": 1109,
        "sadness": 683,
        "disgust": 271,
        "fear": 268,
    },
    # The absent dia110_utt7 is neutral, so neutral rows come last.
    "dev": {"joy": 163, "surprise": 150, "anger": 153, "sadness": 111, "disgust": 22, "fear": 40, "neutral": 470},
    "test": {"neutral": 1256, "joy": 402, "surprise": 281, "anger": 345, "sadness": 208, "disgust": 68, "fear": 50},
}
"""Rows of the published tables, by emotion."""


def table(rows: list[tuple[int, int, str, str, str]]) -> str:
    """A table as published, of (dialogue, utterance, emotion, speaker, text)."""
    text = io.StringIO()
    text.write(HEADER + "\n")
    writer = csv.writer(text, lineterminator="\n")
    for number, (dialog, utterance, emotion, speaker, words) in enumerate(rows, start=1):
        times = ("00:20:57,256", "00:21:00,049")
        writer.writerow([number, words, speaker, emotion, "negative", dialog, utterance, 4, 7, *times])
    return text.getvalue()


def write_clips(paths: list[Path], clip: Path) -> None:
    """Many files of the same few bytes: links to one, which are made much faster than files."""
    clip.write_text("clip")
    for path in paths:
        os.link(clip, path)


def write_small(folder: Path, encoding: str = "utf-8") -> None:
    """The same dialogue number in all three parts, one utterance each."""
    for part, words in (("train", "I’m fine"), ("dev", "He’s lost it."), ("test", "Why?")):
        clips = folder / FOLDERS[part]
        clips.mkdir(parents=True)
        (clips / "dia0_utt0.mp4").write_text(part)
        content = table([(0, 0, "anger" if part == "dev" else "joy", "Phoebe", words)])
        (folder / f"{part}_sent_emo.csv").write_bytes(content.encode(encoding))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Ten utterances a dialogue; of the two known broken clips one is there, one is not."""
    root = tmp_path_factory.mktemp("meld") / "MELD.Raw"
    for part, emotions in PUBLISHED.items():
        folder = root / FOLDERS[part]
        folder.mkdir(parents=True)
        labels = [emotion for emotion, number in emotions.items() for _ in range(number)]
        rows = [(i // 10, i % 10, label, ("Ross", "Dr. Green")[i % 2], "We’re") for i, label in enumerate(labels)]
        # In the archive the table of train lies one folder deeper, and is not in UTF-8.
        where, encoding = (root / "train", "cp1252") if part == "train" else (root, "utf-8")
        (where / f"{part}_sent_emo.csv").write_bytes(table(rows).encode(encoding))
        names = [f"dia{dialog}_utt{utterance}.mp4" for dialog, utterance, *_ in rows]
        write_clips([folder / name for name in names], root.parent / "clip")
    (root / FOLDERS["dev"] / "dia110_utt7.mp4").unlink()
    for name in ("dia49_utt10", "dia66_utt10", "dia66_utt11"):
        (root / FOLDERS["dev"] / f"{name}.mp4").touch()
    for name in ("final_videos_testdia0_utt0", "final_videos_testdia0_utt1", "._dia0_utt0"):
        (root / FOLDERS["test"] / f"{name}.mp4").touch()
    return root


@pytest.fixture(scope="module")
def listing(published):
    return meld.read(published.parent)


def test_the_published_tree_lists_13706_clips_in_the_published_numbers(listing):
    assert not listing.problems
    assert not listing.missing
    assert len(listing.utterances) == 13706
    assert Counter(u.emotion for u in listing.utterances) == {
        "neutral": 6434,
        "happy": 2308,
        "surprised": 1636,
        "angry": 1607,
        "sad": 1002,
        "disgust": 361,
        "fearful": 358,
    }
    partitions = Counter(dict(u.extra)["partition"] for u in listing.utterances)
    assert partitions == {"Train": 9988, "Development": 1108, "Test": 2610}
    assert [u.id for u in listing.utterances] == sorted({u.id for u in listing.utterances})
    assert {u.text for u in listing.utterances} == {"We’re"}
    assert {u.session for u in listing.utterances} == {""}


def test_what_the_archive_holds_beyond_the_tables_is_left_out_with_a_word(listing):
    assert listing.notes == (
        "2 files of the test part under a second name (final_videos_test) left out",
        "1 file of clips known to be broken (dev_dia110_utt7, train_dia125_utt3) left out",
        "3 files without a row in dev_sent_emo.csv (dev_dia49_utt10, dev_dia66_utt10, dev_dia66_utt11) left out",
    )


def test_the_shipped_counts_are_those_of_the_published_tree(listing):
    counts = meld.CORPUS.counts
    assert counts.utterances == 13706
    assert dict(counts.emotion) == Counter(u.emotion for u in listing.utterances)


def test_the_standard_labels_stand_in_the_order_of_the_papers():
    labels = ("neutral", "happy", "surprised", "angry", "sad", "disgust", "fearful")
    assert meld.CORPUS.label_sets[0].labels == labels


@pytest.mark.parametrize("part", ["train", "dev", "test"])
def test_the_folder_of_one_part_is_read_with_the_table_beside_it(tmp_path, part):
    write_small(tmp_path)
    (tmp_path / f"{part}_sent_emo.csv").rename((tmp_path / FOLDERS[part]).parent / f"{part}_sent_emo.csv")
    listing = meld.read(tmp_path / FOLDERS[part])
    assert [u.id for u in listing.utterances] == [f"{part}_dia0_utt0"]
    assert not listing.problems


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
def test_the_same_numbers_in_three_parts_are_three_clips_whatever_the_encoding(tmp_path, encoding):
    write_small(tmp_path, encoding)
    listing = meld.read(tmp_path)
    assert not listing.problems
    assert [(u.id, u.emotion, u.text) for u in listing.utterances] == [
        ("dev_dia0_utt0", "angry", "He’s lost it."),
        ("test_dia0_utt0", "happy", "Why?"),
        ("train_dia0_utt0", "happy", "I’m fine"),
    ]
    clip = listing.utterances[0]
    assert (clip.speaker, clip.session, clip.gender) == ("Phoebe", "", "")
    assert clip.extra == (
        ("partition", "Development"),
        ("dialog", "dev_dia0"),
        ("sentiment", "negative"),
        ("season", "4"),
        ("episode", "7"),
    )


def test_line_ends_of_windows_and_line_breaks_within_a_text_do_no_harm(tmp_path):
    rows = [(0, 0, "joy", "Joey", "Well,\nhello!"), (0, 1, "fear", "Ross", '"Wanted." Nice, no?')]
    (tmp_path / "train_sent_emo.csv").write_bytes(table(rows).replace("\n", "\r\n").encode())
    for number in (0, 1):
        (tmp_path / f"train_dia0_utt{number}.wav").touch()
    listing = meld.read(tmp_path)
    assert [u.text for u in listing.utterances] == ["Well,\nhello!", '"Wanted." Nice, no?']


def test_folders_named_train_dev_and_test_tell_the_part_and_a_flat_name_does(tmp_path):
    write_small(tmp_path / "labels")
    for name in ("train/dia0_utt0.WAV", "DEV/dia0_utt0.flac", "flat/test_dia0_utt0.wav"):
        (tmp_path / "audio" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "audio" / name).touch()
    listing = meld.read(tmp_path)
    assert [(u.id, Path(u.path).suffix) for u in listing.utterances] == [
        ("dev_dia0_utt0", ".flac"),
        ("test_dia0_utt0", ".wav"),
        ("train_dia0_utt0", ".WAV"),
    ]
    assert listing.notes == ("3 files left out, the same clip in another format",)


def test_a_doubled_tree_with_doubled_tables_counts_once(tmp_path):
    write_small(tmp_path)
    write_small(tmp_path / "MELD.Raw")
    listing = meld.read(tmp_path)
    assert len(listing.utterances) == 3
    assert not listing.problems
    assert listing.notes == ("3 files left out, byte for byte the clip of the same name",)


def test_a_clip_whose_folders_do_not_tell_the_part_is_a_problem(tmp_path):
    write_small(tmp_path)
    stray = tmp_path / "clips" / "dia0_utt0.mp4"
    stray.parent.mkdir()
    stray.touch()
    listing = meld.read(tmp_path)
    assert len(listing.utterances) == 3
    assert listing.problems == (f"{stray}: neither its name nor a folder tells whether it is of train, dev or test",)


def test_a_name_and_a_folder_that_disagree_about_the_part_are_a_problem(tmp_path):
    write_small(tmp_path)
    stray = tmp_path / "train" / "test_dia0_utt0.wav"
    stray.touch()
    assert meld.read(tmp_path).problems == (f"{stray}: its name says test, its folder train",)


def test_a_part_without_its_table_is_one_problem_with_a_number(tmp_path):
    write_small(tmp_path)
    (tmp_path / "dev_sent_emo.csv").unlink()
    (tmp_path / FOLDERS["dev"] / "dia0_utt1.mp4").touch()
    listing = meld.read(tmp_path)
    assert [u.id for u in listing.utterances] == ["test_dia0_utt0", "train_dia0_utt0"]
    assert listing.problems == (f"{tmp_path}: no dev_sent_emo.csv, so the labels of 2 clips are unknown",)


def test_tables_that_contradict_each_other_are_a_problem_and_the_clip_is_left_out(tmp_path):
    write_small(tmp_path)
    other = tmp_path / "old" / "dev_sent_emo.csv"
    other.parent.mkdir()
    other.write_text(table([(0, 0, "sadness", "Phoebe", "He’s lost it.")]), encoding="utf-8")
    listing = meld.read(tmp_path)
    assert [u.id for u in listing.utterances] == ["test_dia0_utt0", "train_dia0_utt0"]
    assert listing.problems == (f"{other}: line 2: dev_dia0_utt0: sad of Phoebe, another row says angry of Phoebe",)
    assert not listing.missing


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ((0, 0, "boredom", "Ross", "Hm"), "emotion 'boredom'"),
        ((0, 0, "joy", "", "Hm"), "speaker ''"),
        (("x", 0, "joy", "Ross", "Hm"), "no dialogue or utterance number"),
    ],
)
def test_a_row_that_cannot_be_read_is_named_with_its_line(tmp_path, row, words):
    file = tmp_path / "train_sent_emo.csv"
    file.write_text(table([row, (0, 1, "joy", "Ross", "Hm")]))
    (tmp_path / "train_dia0_utt1.wav").touch()
    listing = meld.read(tmp_path)
    assert [u.id for u in listing.utterances] == ["train_dia0_utt1"]
    (problem,) = listing.problems
    assert problem.startswith(f"{file}: line 2: ")
    assert words in problem


def test_rows_without_a_clip_are_missing_but_for_the_two_known_ones(tmp_path):
    rows = [(125, 3, "neutral", "Ross", ""), (9, 0, "joy", "Ross", ""), (10, 0, "joy", "Ross", "")]
    (tmp_path / "train_sent_emo.csv").write_text(table(rows))
    (tmp_path / "dev_sent_emo.csv").write_text(table([(110, 7, "neutral", "Ross", "")]))
    (tmp_path / "train_dia10_utt0.wav").touch()
    assert meld.read(tmp_path).missing == ("train_dia9_utt0",)


def test_hidden_files_and_other_names_are_left_out_and_links_in_a_circle_end(tmp_path):
    write_small(tmp_path)
    for name in ("._dia0_utt1.mp4", ".DS_Store", "trailer.mp4"):
        (tmp_path / FOLDERS["train"] / name).touch()
    (tmp_path / "train" / "again").symlink_to(tmp_path)
    listing = meld.read(tmp_path)
    assert len(listing.utterances) == 3
    assert listing.notes == ("1 file with a name of another kind left out",)
