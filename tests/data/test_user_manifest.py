import pytest

from ser_cli.data.user_manifest import read_user_manifest
from ser_cli.errors import ProblemsError, UsageError


def manifest(tmp_path, text: str, encoding: str = "utf-8"):
    path = tmp_path / "mine.csv"
    path.write_text(text, encoding=encoding)
    return path


def test_a_manifest_is_read_with_its_optional_and_further_columns(tmp_path):
    path = manifest(
        tmp_path,
        "path, speaker,emotion,id,gender,dialect\nx/a.wav,p1, sad ,a1,female,north\nb.wav,p2,happy,,,\n",
    )
    second, first = read_user_manifest(path, tmp_path, None).utterances[::-1]
    assert (first.id, first.emotion, first.gender, first.extra) == (
        "a1",
        "sad",
        "female",
        (("dialect", "north"),),
    )
    assert first.path == str(tmp_path.resolve() / "x/a.wav")
    assert (second.id, second.speaker, second.extra) == ("b", "p2", ())


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path):
    path = manifest(tmp_path, "path,emotion,speaker\r\na.wav,sad,p1\r\n\r\n", encoding="utf-8-sig")
    assert [u.emotion for u in read_user_manifest(path, tmp_path, None).utterances] == ["sad"]


def test_a_missing_column_is_named_with_its_nearest(tmp_path):
    path = manifest(tmp_path, "path,emotoin,speaker\na.wav,sad,p1\n")
    with pytest.raises(UsageError, match=r"no column 'emotion' \(is it 'emotoin'\?\)"):
        read_user_manifest(path, tmp_path, None)


def test_all_wrong_rows_are_told_together(tmp_path):
    rows = [
        "a.wav,sad,p1",
        "b.wav,,p1",
        "c.wav,sadd,p1",
        "../d.wav,sad,p1",
        "/etc/passwd,sad,p1",
        "a.wav,sad,p2",
        "e.wav,sad,",
    ]
    path = manifest(tmp_path, "path,emotion,speaker\n" + "\n".join(rows) + "\n")
    with pytest.raises(ProblemsError) as error:
        read_user_manifest(path, tmp_path, ["sad", "happy"])
    text = str(error.value)
    assert text.startswith(f"{path}: 6 problems")
    assert "line 3: emotion is empty" in text
    assert "line 4: emotion 'sadd' is not among the declared sad, happy; did you mean sad?" in text
    assert "line 5: ../d.wav lies outside" in text
    assert "line 6: /etc/passwd lies outside" in text
    assert "line 7: id 'a' stands in line 2 too" in text
    assert "and 1 more" in text
    assert len(error.value.problems) == 6


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("path,emotion,speaker\na.wav,sad,p1,more\n", "line 2: more values than columns; put text that holds commas"),
        ("path,emotion,speaker\na\0.wav,sad,p1\n", "line 2: the path holds a NUL byte"),
        ("path,emotion,speaker\n,sad,p1\n", "line 2: path is empty"),
        ("path,emotion,speaker\n.,sad,p1\n", "line 2: . is a folder"),
        ("path,emotion,speaker\n/,sad,p1\n", "line 2: / lies outside"),
        ('path,emotion,speaker,text\na.wav,sad,p1,"two\nlines"\nb.wav,,p1,\n', "line 4: emotion is empty"),
        ("path,emotion,speaker,votes\na.wav,sad,p1,sad:x\n", "line 2: votes 'sad:x': 'sad:x' is not an emotion with"),
        ("path;emotion;speaker\na.wav;sad;p1\n", "its columns are separated by ';'; save it with commas"),
        ("Path,Emotion,Speaker\na.wav,sad,p1\n", "no column 'path' (is it 'Path'?), 'emotion' (is it 'Emotion'?)"),
        ("file,label,speaker_id\na.wav,sad,p1\n", "'speaker' (is it 'speaker_id'?)"),
        ("path,emotion,speaker,path\na.wav,sad,p1,b.wav\n", "column 'path' stands there twice"),
    ],
)
def test_values_that_would_shift_or_break_are_named(tmp_path, text, told):
    with pytest.raises((ProblemsError, UsageError)) as error:
        read_user_manifest(manifest(tmp_path, text), tmp_path, None)
    assert told in str(error.value)


def test_a_link_that_leaves_the_folder_is_refused(tmp_path):
    source = tmp_path / "audio"
    source.mkdir()
    (source / "a.wav").symlink_to(tmp_path / "elsewhere.wav")
    with pytest.raises(ProblemsError, match="lies outside"):
        read_user_manifest(manifest(tmp_path, "path,emotion,speaker\na.wav,sad,p1\n"), source, None)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "an empty first line"),
        (b"path,emotion,speaker\n", "no utterance"),
        (b"\xff\xfe\x00p", "cannot be read as UTF-8"),
        (b'path,emotion,speaker\n"a.wav,sad,p1\n', "not a CSV file"),
    ],
)
def test_a_file_that_is_no_manifest_is_refused(tmp_path, content, told):
    path = tmp_path / "mine.csv"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=told):
        read_user_manifest(path, tmp_path, None)


def test_ids_that_come_from_paths_and_meet_are_told_where_they_come_from(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("path,emotion,speaker\nx.mp3,sad,p1\nx.ogg,sad,p1\n")
    with pytest.raises(ProblemsError, match=r"id 'x' stands in line 2 too; it is made of the path without its ending"):
        read_user_manifest(path, tmp_path, None)


def test_a_manifest_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match="no such manifest"):
        read_user_manifest(tmp_path / "none.csv", tmp_path, None)


def test_a_column_that_looks_like_a_misspelt_one_is_told(tmp_path):
    text = "path,emotion,speaker,Session,vote,dialogue,dialect\na.wav,sad,p1,s,sad:1,d,north\n"
    read = read_user_manifest(manifest(tmp_path, text), tmp_path, None)
    told = ["'Session' is kept for --where and not used otherwise; is 'session' meant?", "is 'votes'", "is 'dialog'"]
    assert len(read.notes) == 3
    assert all(part in note for part, note in zip(told, read.notes, strict=True))
