"""The table of texts that `ser predict --texts` takes."""

import shutil
from pathlib import Path

import pytest

from ser_cli.errors import UsageError
from ser_cli.prediction.transcripts import read_transcripts


def write_table(*rows: str, folder: str = ".") -> Path:
    Path(folder).mkdir(exist_ok=True)
    path = Path(folder) / "texts.csv"
    path.write_text("\n".join(["path,text", *rows]) + "\n")
    return path


@pytest.mark.parametrize("other", ["x.wav", "./x.wav", "tones/../x.wav", "ABSOLUTE"])
def test_two_texts_for_one_recording_are_refused_and_the_same_text_twice_is_not(other):
    if other == "ABSOLUTE":
        other = str(Path("x.wav").absolute())
    with pytest.raises(UsageError, match=r"texts\.csv: two texts for .*x\.wav: 'take 1' and 'never'\n  keep one line"):
        read_transcripts(write_table("x.wav,take 1", "y.wav,no", f"{other},never"))
    assert read_transcripts(write_table("x.wav,take 1", f"{other}, take 1 ")).of("x.wav") == "take 1"


def test_a_path_is_the_same_however_it_is_written():
    found = read_transcripts(write_table("tones/../tones/x.wav,take 1"))
    assert [found.of(path) for path in ("tones/x.wav", "./tones/x.wav", str(Path("tones/x.wav").absolute()))] == [
        "take 1"
    ] * 3
    assert found.of("x.wav") == ""


def test_relative_paths_start_in_the_working_folder_or_beside_the_table():
    table = write_table("x.wav,take 1", folder="tones")
    assert read_transcripts(table).of("x.wav") == "take 1"  # nothing lies anywhere: as the command's own paths
    Path("tones/x.wav").touch()
    found = read_transcripts(table)
    assert (found.of("tones/x.wav"), found.of("x.wav")) == ("take 1", "")
    Path("x.wav").touch()
    found = read_transcripts(table)
    assert (found.of("tones/x.wav"), found.of("x.wav")) == ("", "take 1")


def test_one_recording_that_is_named_from_both_folders_has_one_text():
    Path("tones").mkdir()
    Path("tones/x.wav").touch()
    with pytest.raises(UsageError, match=r"two texts for tones/x\.wav"):
        read_transcripts(write_table("x.wav,take 1", "tones/x.wav,never", folder="tones"))


def test_a_path_that_no_file_can_have_is_no_fault():
    assert read_transcripts(write_table(f"{'x' * 5000},take 1")).of("x.wav") == ""


def test_the_manifest_of_a_corpus_is_a_table_of_texts(tones):
    clip = tones.parent / "p1/sad-0.wav"
    assert read_transcripts(tones).of(str(clip)) == "take 0"
    shutil.move(tones, "elsewhere.csv")
    assert read_transcripts(Path("elsewhere.csv")).of(str(clip)) == ""
