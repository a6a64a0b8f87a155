"""Trees as people have them: nested, linked in a loop, unreadable in parts, doubled, in odd encodings."""

import os

import pytest

from ser_cli.corpora.files import folders_of, one_file_each, read_text, walk


def names(tree) -> list[str]:
    return [path.name for path in tree.paths]


def test_hidden_files_appledouble_twins_and_macosx_folders_are_not_seen(tmp_path):
    for name in ("a.wav", "._a.wav", ".DS_Store", "__MACOSX/a.wav", ".hidden/b.wav", "deep/er/c.WAV"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    tree = walk(tmp_path)
    assert names(tree) == ["a.wav", "c.WAV"]
    assert [path.name for path in tree.with_suffix(".wav")] == ["a.wav", "c.WAV"]
    assert [path.name for path in tree.named("C.wav")] == ["c.WAV"]


def test_a_loop_of_links_ends_and_linked_folders_are_read_once(tmp_path):
    corpus, elsewhere = tmp_path / "corpus", tmp_path / "other disk"
    for folder in (corpus / "sub", elsewhere):
        folder.mkdir(parents=True)
    (elsewhere / "far.wav").touch()
    (corpus / "sub" / "near.wav").touch()
    (corpus / "sub" / "loop").symlink_to(corpus)
    (corpus / "linked").symlink_to(elsewhere)
    (corpus / "linked again").symlink_to(elsewhere)
    assert names(walk(corpus)) == ["far.wav", "near.wav"]


def test_a_dangling_link_is_listed_for_the_decoder_to_name(tmp_path):
    (tmp_path / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    assert names(walk(tmp_path)) == ["gone.wav"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "a.wav").touch()
    (tmp_path / "locked").mkdir()
    scandir = os.scandir

    def refuse(path="."):
        # In the place of chmod, which does not stop a superuser, and tests may run as one.
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    tree = walk(tmp_path)
    assert names(tree) == ["a.wav"]
    assert tree.problems == (f"{tmp_path / 'locked'}: cannot be read (Permission denied)",)


def test_the_order_of_a_directory_listing_does_not_matter(tmp_path, monkeypatch):
    for name in ("b/2.wav", "a/1.wav", "c/3.wav"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    there = walk(tmp_path).paths
    real = os.walk
    monkeypatch.setattr(os, "walk", lambda *args, **kw: reversed(list(real(*args, **kw))))
    assert walk(tmp_path).paths == there


def write(path, content: bytes):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_equal_copies_count_once_and_others_of_one_name_are_a_problem(tmp_path):
    found = [
        ("one", write(tmp_path / "x/one.wav", b"1")),
        ("one", write(tmp_path / "a/one.wav", b"1")),
        ("two", write(tmp_path / "x/two.wav", b"2")),
        ("two", write(tmp_path / "a/two.wav", b"other")),
    ]
    chosen = one_file_each(found)
    assert chosen == one_file_each(reversed(found))
    assert chosen.paths == {"one": tmp_path / "a/one.wav"}
    assert chosen.problems == (
        f"{tmp_path / 'a/two.wav'}: differs from {tmp_path / 'x/two.wav'}, which has the same name",
    )
    assert chosen.notes == ("1 file left out, byte for byte the clip of the same name",)


def test_of_several_formats_the_lossless_one_is_taken(tmp_path):
    files = [write(tmp_path / name, name.encode()) for name in ("MP3/a.mp3", "WAV/a.WAV", "flac/a.flac", "a.mp4")]
    chosen = one_file_each(("a", path) for path in files)
    assert chosen.paths == {"a": tmp_path / "WAV/a.WAV"}
    assert chosen.notes == ("3 files left out, the same clip in another format",)


@pytest.mark.parametrize(
    ("content", "encodings"),
    [
        ("Wut: ärger\nzwei\n".encode(), ()),
        ("Wut: ärger\r\nzwei\r\n".encode("utf-8-sig"), ()),
        ("Wut: ärger\nzwei\n".encode("utf-16"), ()),
        ("Wut: ärger\rzwei\r".encode("latin-1"), ()),
        ("Wut: ärger\nzwei\n".encode("utf-16-be"), ()),
        ("Wut: ärger\r\nzwei\r\n".encode("utf-16-le"), ()),
    ],
)
def test_text_is_read_whatever_its_encoding_and_line_ends(tmp_path, content, encodings):
    path = write(tmp_path / "labels.txt", content)
    assert read_text(path, *([encodings] if encodings else [])) == "Wut: ärger\nzwei\n"


def test_bytes_that_are_no_text_do_not_stop_a_reader(tmp_path):
    path = write(tmp_path / "labels.txt", b"\xff\xfe\x00")
    assert isinstance(read_text(path), str)
    assert read_text(write(tmp_path / "g.txt", b"a\x81b"), ("utf-8",)) == "a\ufffdb"


def test_folders_are_told_from_the_inside_out_with_the_source_itself(tmp_path):
    assert list(folders_of(tmp_path / "a/b/c.wav", tmp_path)) == ["b", "a", tmp_path.name]


def test_a_pipe_in_the_place_of_a_recording_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.wav")
    (tmp_path / "b.wav").touch()
    assert names(walk(tmp_path)) == ["b.wav"]
