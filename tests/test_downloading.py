"""Recordings arrive whole or not at all, whatever the line, the server or the archive does."""

import contextlib
import hashlib
import io
import json
import logging
import os
import re
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import soundfile

from ser_cli.corpora import CORPORA
from ser_cli.corpora.corpus import Corpus, Download, Listing
from ser_cli.errors import SerError
from ser_cli.preparation import downloading, unpacking
from ser_cli.preparation.downloading import MARKER, describe_download, download_corpus

CHUNK_BYTES = 4096
"""What the downloader writes at a time; 10 MiB outside of tests."""
RECORDINGS = {
    f"Actor_{actor:02d}/03-01-0{actor}.wav": hashlib.shake_256(bytes([actor])).digest(30_000) for actor in range(1, 8)
}
"""Noise, so that it does not compress."""


def zip_of(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", compression) as zipped:
        for name, content in members.items():
            zipped.writestr(name, content)
    return archive.getvalue()


def zip_with(entry: zipfile.ZipInfo, content: bytes = b"x") -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("Actor_01/a.wav", b"RIFF")
        zipped.writestr(entry, content)
    return archive.getvalue()


ARCHIVE = zip_of(RECORDINGS)


@dataclass
class Server:
    """What is served on loopback, which faults it has, and what it was asked."""

    url: str = ""
    content: bytes = ARCHIVE
    statuses: list[int] = field(default_factory=list)
    """Answered instead of the content, one request each."""
    breaks_after: list[int] = field(default_factory=list)
    """Bytes after which the connection breaks, one request each."""
    resets: bool = False
    """Whether it breaks as by a cut cable, not as by a server that closes."""
    ignores_range: bool = False
    told_length: int | None = None
    tells_length: bool = True
    pause_s: float = 0.0
    """Between blocks of a few kB."""
    ranges: list[str | None] = field(default_factory=list)
    served_bytes: int = 0

    def download(self, **changes) -> Download:
        md5 = hashlib.md5(self.content).hexdigest()
        return replace(Download(self.url, len(self.content), unpacked_bytes=210_000, md5=md5), **changes)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Server

    def log_message(self, *_):
        pass

    def do_GET(self):
        state, self.close_connection = self.state, True
        state.ranges.append(self.headers["Range"])
        if state.statuses:
            self.send_response(state.statuses.pop(0))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        first = 0
        if (asked := self.headers["Range"]) and not state.ignores_range:
            first = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            if first >= len(state.content):
                self.send_response(416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{len(state.content) - 1}/{len(state.content)}")
        else:
            self.send_response(200)
        body = state.content[first:]
        if state.tells_length:
            self.send_header("Content-Length", str(len(body) if state.told_length is None else state.told_length))
        self.end_headers()
        if state.breaks_after:
            body = body[: state.breaks_after.pop(0)]
        for start in range(0, len(body), 2 * CHUNK_BYTES):
            block = body[start : start + 2 * CHUNK_BYTES]
            state.served_bytes += len(block)  # before, since who has the last block may look at once
            try:
                self.wfile.write(block)
            except OSError:
                state.served_bytes -= len(block)
                return
            threading.Event().wait(state.pause_s)
        if state.resets:
            threading.Event().wait(0.05)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            socket.close(self.connection.detach())


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    state = Server()
    http = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"state": state}))
    state.url = f"http://127.0.0.1:{http.server_port}/files/corpus.zip?download=1"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture(autouse=True)
def hub(monkeypatch) -> Iterator[None]:
    """The downloader on line, without its pauses, and by small chunks."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", CHUNK_BYTES)
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    huggingface_hub.close_session()
    yield
    huggingface_hub.close_session()


@pytest.fixture
def part(home) -> Path:
    return home / "downloads" / "tones.zip.part"


def left_in(home: Path) -> set[str]:
    """Every file below the data home, but for locks."""
    return {
        str(path.relative_to(home)) for path in home.rglob("*") if path.is_file() and not path.name.endswith(".lock")
    }


def assert_recordings_in(folder: Path) -> None:
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.wav")}
    assert found == RECORDINGS


def failure(name: str, download: Download) -> str:
    with pytest.raises(SerError) as caught:
        download_corpus(name, download)
    return str(caught.value)


def test_recordings_are_fetched_and_unpacked(server, home, capfd, caplog):
    told = []
    folder = download_corpus("tones", server.download(), lambda *numbers: told.append(numbers))
    assert folder == home / "sources" / "tones"
    assert_recordings_in(folder)
    assert left_in(home) == {f"sources/tones/{name}" for name in [*RECORDINGS, MARKER]}
    assert told[0] == (0, len(ARCHIVE))
    assert told[-1] == (len(ARCHIVE), len(ARCHIVE))
    assert told == sorted(told) and len(told) > 20
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_a_second_call_fetches_nothing(server, home):
    folder = download_corpus("tones", server.download())
    served = server.served_bytes
    shutil.rmtree(home / "downloads")
    assert download_corpus("tones", server.download()) == folder
    assert (len(server.ranges), server.served_bytes) == (1, served)
    assert not (home / "downloads").exists()


def test_a_publisher_who_tells_neither_size_nor_md5_is_enough(server):
    told = []
    folder = download_corpus("tones", server.download(size_bytes=None, md5=None), lambda *n: told.append(n))
    assert_recordings_in(folder)
    assert told[-1] == (len(ARCHIVE), len(ARCHIVE))


def test_a_server_that_does_not_tell_the_length_is_enough(server):
    server.tells_length = False
    told = []
    folder = download_corpus("tones", server.download(size_bytes=None), lambda *n: told.append(n))
    assert_recordings_in(folder)
    assert told[-1] == (len(ARCHIVE), 0)


def test_a_broken_connection_is_taken_up_where_it_broke_and_only_the_rest_is_asked_for(server, capfd):
    server.breaks_after = [100_000]
    told = []
    assert_recordings_in(download_corpus("tones", server.download(), lambda *n: told.append(n)))
    first, second = server.ranges
    assert first is None
    resumed_at = int(re.fullmatch(r"bytes=(\d+)-", second)[1])
    assert 100_000 - CHUNK_BYTES <= resumed_at <= 100_000
    assert server.served_bytes <= len(ARCHIVE) + CHUNK_BYTES
    assert told[-1] == (len(ARCHIVE), len(ARCHIVE))
    assert capfd.readouterr() == ("", "")


def test_a_line_that_breaks_again_and_again_leaves_what_came_for_the_next_call(server, home, part):
    server.breaks_after = [50_000] + 20 * [0]
    message = failure("tones", server.download())
    assert message.startswith(f"cannot download tones from {server.url}: ")
    assert "run the same command again, it goes on where it stopped" in message
    assert message.endswith("give its folder with --source")
    present = part.stat().st_size
    assert 50_000 - CHUNK_BYTES <= present <= 50_000
    assert part.read_bytes() == ARCHIVE[:present]
    assert left_in(home) == {"downloads/tones.zip.part"}
    server.breaks_after, server.ranges, server.served_bytes = [], [], 0
    assert_recordings_in(download_corpus("tones", server.download()))
    assert server.ranges == [f"bytes={present}-"]
    assert server.served_bytes == len(ARCHIVE) - present


def test_a_connection_that_is_reset_leaves_what_came_for_the_next_call(server, part):
    server.breaks_after, server.resets = [100_000], True
    message = failure("tones", server.download())
    assert "Connection reset by peer\n  run the same command again, it goes on where it stopped" in message
    present = part.stat().st_size
    assert present > 0
    server.resets, server.ranges = False, []
    assert_recordings_in(download_corpus("tones", server.download()))
    assert server.ranges == [f"bytes={present}-"]


def test_a_killed_process_is_taken_up_by_the_next(server, home, part, monkeypatch):
    server.pause_s = 0.05
    download = server.download()
    code = (
        f"from huggingface_hub import constants; constants.DOWNLOAD_CHUNK_SIZE = {CHUNK_BYTES}\n"
        "from ser_cli.corpora.corpus import Download\n"
        "from ser_cli.preparation.downloading import download_corpus\n"
        f"download_corpus('tones', Download{(download.url, download.size_bytes, 210_000, download.md5)})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "HF_HUB_OFFLINE": "0"})
    deadline = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size > 40_000):
        assert time.monotonic() < deadline and process.poll() is None
        threading.Event().wait(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    present = part.stat().st_size
    assert 40_000 < present < len(ARCHIVE)
    server.pause_s, server.ranges = 0, []
    assert_recordings_in(download_corpus("tones", download))
    assert server.ranges == [f"bytes={present}-"]
    assert left_in(home) == {f"sources/tones/{name}" for name in [*RECORDINGS, MARKER]}


def test_ctrl_c_passes_through_and_leaves_what_came(server, home, part):
    def press_ctrl_c(done: int, total: int) -> None:
        if done > 50_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download_corpus("tones", server.download(), press_ctrl_c)
    assert part.stat().st_size >= 50_000 - CHUNK_BYTES
    assert left_in(home) == {"downloads/tones.zip.part"}
    assert_recordings_in(download_corpus("tones", server.download()))


@pytest.mark.parametrize("size_known", [True, False])
def test_a_process_killed_after_the_last_byte_leaves_a_whole_archive(server, part, size_known):
    part.parent.mkdir(parents=True)
    part.write_bytes(ARCHIVE)
    download = server.download() if size_known else server.download(size_bytes=None)
    assert_recordings_in(download_corpus("tones", download))
    assert server.ranges == ([] if size_known else [f"bytes={len(ARCHIVE)}-", None])


def test_a_process_killed_before_it_unpacked_leaves_an_archive_that_is_not_fetched_again(server, home):
    archive = home / "downloads" / "tones.zip"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(ARCHIVE)
    half = home / "sources" / ".tones.unpacking"
    half.mkdir(parents=True)
    (half / "left.wav").write_bytes(b"half")
    assert_recordings_in(download_corpus("tones", server.download()))
    assert server.ranges == []
    assert not half.exists() and not archive.exists()


def test_what_is_longer_than_the_archive_is_fetched_afresh(server, part):
    part.parent.mkdir(parents=True)
    part.write_bytes(ARCHIVE + b"more")
    assert_recordings_in(download_corpus("tones", server.download()))
    assert server.ranges == [None]


def test_a_server_that_ignores_ranges_is_asked_for_everything_again(server, part):
    server.ignores_range = True
    server.breaks_after = [100_000]
    told = []
    assert_recordings_in(download_corpus("tones", server.download(), lambda *n: told.append(n)))
    assert len(server.ranges) == 2 and server.ranges[1].startswith("bytes=")
    assert max(done for done, _ in told) == told[-1][0] == len(ARCHIVE)


def test_a_missing_archive_is_a_sentence_and_not_asked_for_twice(server, home):
    server.statuses = [404]
    message = failure("tones", server.download())
    assert message == (
        f"cannot download tones from {server.url}: the server answers 404 Not Found\n"
        "  the archive may have moved: look at the homepage of the corpus; or fetch the archive by hand, unpack it"
        " and give its folder with --source"
    )
    assert len(server.ranges) == 1
    assert left_in(home) == set()


def test_a_server_in_trouble_is_a_sentence_and_keeps_what_came(server, home, part):
    part.parent.mkdir(parents=True)
    part.write_bytes(ARCHIVE[:1000])
    server.statuses = [500]
    message = failure("tones", server.download())
    assert "the server answers 500 Internal Server Error\n  run the same command again later" in message
    assert part.read_bytes() == ARCHIVE[:1000]


def test_a_busy_server_is_asked_again(server):
    server.statuses = [429, 429]
    assert_recordings_in(download_corpus("tones", server.download()))
    assert len(server.ranges) == 3


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/a.zip", "http://no-such-host.invalid/a.zip", "gopher://x/a.zip"])
def test_an_unreachable_server_is_a_sentence(home, url):
    message = failure("tones", Download(url, 1000, 1000, None))
    first, advice = message.split("\n")
    assert re.fullmatch(rf"cannot download tones from {re.escape(url)}: .{{10,}}", first)
    assert "run the same command again" in advice and "--source" in advice
    assert left_in(home) == set()


def test_offline_mode_of_the_hub_is_named_as_the_reason(server, home, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = failure("tones", server.download())
    assert "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set" in message
    assert "unset it for this command" in message
    assert server.ranges == [] and left_in(home) == set()


def test_a_wrong_md5_deletes_the_archive_and_tells_both(server, home):
    found = hashlib.md5(ARCHIVE).hexdigest()
    message = failure("tones", server.download(md5="0" * 32))
    assert f"has the MD5 {found}, its publisher tells {'0' * 32}\n" in message
    assert "it was deleted; run the same command again to fetch it afresh" in message
    assert left_in(home) == set()


def test_a_part_of_another_archive_is_found_out_and_deleted(server, home, part):
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 1000)
    assert "has the MD5" in failure("tones", server.download())
    assert left_in(home) == set()
    assert_recordings_in(download_corpus("tones", server.download()))


@pytest.mark.parametrize("difference", [-1, 1])
def test_an_archive_of_another_size_is_refused_before_it_is_fetched(server, home, difference):
    expected = len(ARCHIVE) + difference
    message = failure("tones", server.download(size_bytes=expected))
    assert f"{server.url} has {len(ARCHIVE):,} bytes, its publisher tells {expected:,}\n" in message
    assert "what there was of it was deleted" in message
    assert left_in(home) == set()


def test_a_server_that_does_not_tell_its_length_is_stopped_at_the_size_of_the_archive(server, home):
    server.tells_length = False
    server.content = ARCHIVE + b"x" * 500_000
    message = failure("tones", server.download(size_bytes=len(ARCHIVE)))
    assert re.search(rf"has at least [\d,]+ bytes, its publisher tells {len(ARCHIVE):,}\n", message)
    assert left_in(home) == set()


def test_a_short_archive_without_a_length_is_refused(server, home):
    server.tells_length = False
    server.content = ARCHIVE[:-1000]
    message = failure("tones", server.download(size_bytes=len(ARCHIVE)))
    assert f"has {len(ARCHIVE) - 1000:,} bytes, its publisher tells {len(ARCHIVE):,}" in message
    assert left_in(home) == set()


@pytest.mark.parametrize("tells_length", [True, False])
def test_an_empty_answer_is_a_sentence(server, home, tells_length):
    server.content, server.tells_length = b"", tells_length
    message = failure("tones", server.download(size_bytes=None))
    assert f"cannot download tones from {server.url}: the server sends an empty file\n" in message
    assert left_in(home) == set()


def test_an_archive_of_unknown_size_has_a_limit(server, home, monkeypatch):
    monkeypatch.setattr(downloading, "ALWAYS_ALLOWED_BYTES", 100_000)
    message = failure("tones", server.download(size_bytes=None, unpacked_bytes=1000))
    assert "bytes, at most 100,000 were expected" in message
    assert left_in(home) == set()


@pytest.mark.parametrize("told_length", [len(ARCHIVE) + 5000, len(ARCHIVE) - 5000, 0])
def test_a_lying_content_length_is_a_sentence(server, home, told_length):
    server.told_length = told_length
    message = failure("tones", server.download(size_bytes=None))
    assert message.startswith("cannot ")
    assert left_in(home) <= {"downloads/tones.zip.part"}


def test_a_full_disk_is_told_before_anything_is_asked_for(server, home, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=300_000_000))
    download = Download(server.url, 208_000_000, 1_090_000_000, None)
    assert failure("tones", download) == (
        f"cannot download tones: {home} has 300 MB of free space, 1.3 GB are needed"
        " (208 MB to download and 1.1 GB unpacked)\n"
        "  free some, or choose another place with SER_HOME"
    )
    assert server.ranges == [] and left_in(home) == set()


def test_only_what_is_still_to_be_downloaded_needs_room(server, part, monkeypatch):
    part.parent.mkdir(parents=True)
    part.write_bytes(ARCHIVE[:-10])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=210_010))
    assert_recordings_in(download_corpus("tones", server.download()))


def test_the_server_is_asked_for_a_size_that_the_publisher_does_not_tell(server, home, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=211_000))
    message = failure("tones", server.download(size_bytes=None))
    assert f"({len(ARCHIVE):,} bytes to download and 210,000 bytes unpacked)" in message
    assert left_in(home) == set()


def test_an_archive_that_unpacks_to_more_than_the_disk_holds_is_kept(server, home, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=len(ARCHIVE) - 1000))
    monkeypatch.setattr(downloading, "_fetch", lambda name, download, part, _: part.write_bytes(ARCHIVE))
    message = failure("tones", server.download(unpacked_bytes=1000))
    assert "210,000 bytes are needed (210,000 bytes unpacked)" in message
    assert left_in(home) == {"downloads/tones.zip"}


def test_a_disk_that_fills_while_unpacking_leaves_the_archive_and_no_folder(server, home, monkeypatch):
    def fill(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(downloading, "write_members", fill)
        message = failure("tones", server.download())
    assert message.startswith(f"cannot download tones: cannot write {home}: No space left on device\n  free space, or")
    assert left_in(home) == {"downloads/tones.zip"}
    assert_recordings_in(download_corpus("tones", server.download()))
    assert len(server.ranges) == 1


def test_a_data_home_that_cannot_be_written_is_a_sentence(server, home):
    home.write_text("a file")
    message = failure("tones", server.download())
    assert message.startswith(f"cannot download tones: cannot write {home}")
    assert "choose another place with SER_HOME" in message


def test_a_folder_that_is_somebody_elses_is_never_replaced(server, home):
    own = home / "sources" / "tones" / "mine.wav"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"mine")
    message = failure("tones", server.download())
    assert message.startswith(f"cannot download tones: {own.parent} is there already, and not from {server.url}\n")
    assert message.endswith(f"move it away, or use what it holds with --source {own.parent}")
    assert server.ranges == [] and left_in(home) == {"sources/tones/mine.wav"}


@pytest.mark.parametrize("marker", ['{"url": "http://other/", "md5": null}', "{", "[]"])
def test_another_download_is_not_taken_for_this_one(server, home, marker):
    folder = home / "sources" / "tones"
    folder.mkdir(parents=True)
    (folder / MARKER).write_text(marker)
    assert "is there already" in failure("tones", server.download())


def test_an_empty_folder_is_filled(server, home):
    (home / "sources" / "tones").mkdir(parents=True)
    assert_recordings_in(download_corpus("tones", server.download()))


def test_the_marker_tells_where_the_recordings_are_from(server):
    download = server.download()
    folder = download_corpus("tones", download)
    assert json.loads((folder / MARKER).read_text()) == {"url": download.url, "md5": download.md5}


def test_two_calls_at_once_fetch_once(server):
    server.pause_s = 0.002
    folders = []
    threads = [
        threading.Thread(target=lambda: folders.append(download_corpus("tones", server.download()))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(folders) == 3 and len(server.ranges) == 1
    assert_recordings_in(folders[0])


def entry(name: str, *, mode: int = 0, method: int = zipfile.ZIP_STORED) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    info.compress_type = method
    return info


@pytest.mark.parametrize(
    ("archive", "fault"),
    [
        (zip_with(entry("../out.wav")), "its member '../out.wav' leads out of the folder"),
        (zip_with(entry("a/../../out.wav")), "its member 'a/../../out.wav' leads out of the folder"),
        (zip_with(entry("/etc/out.wav")), "its member '/etc/out.wav' has an absolute path"),
        (zip_with(entry("C:/out.wav")), "its member 'C:/out.wav' has an absolute path"),
        (zip_with(entry("a\\out.wav")), r"its member 'a\\out.wav' has a backslash in its path"),
        (zip_with(entry("a\nb.wav")), r"its member 'a\nb.wav' has a control character in its name"),
        (zip_with(entry("a.wav/b.wav")).replace(b"a.wav/b.wav", b"a.wav\0b.wav"), r"'a.wav\x00b.wav' has a control"),
        (zip_with(entry(".")), "its member '.' has no name"),
        (zip_with(entry("link", mode=stat.S_IFLNK | 0o777), b"/etc/passwd"), "its member 'link' is a symbolic link"),
        (zip_with(entry("pipe", mode=stat.S_IFIFO | 0o644)), "its member 'pipe' is no plain file"),
        (zip_with(entry("a.wav", method=zipfile.ZIP_LZMA)), "its member 'a.wav' is packed by method 14, not by 0"),
        (zip_with(entry("Actor_01/a.wav/b.wav")), "its member 'Actor_01/a.wav/b.wav' lies inside of another file"),
        (zip_of({"__MACOSX/a.wav": b"x", "._b.wav": b"x", "c/": b""}), "there is no file in it"),
        (zip_of({}), "there is no file in it"),
        (b"<html>please log in</html>", "File is not a zip file"),
    ],
)
def test_an_archive_that_is_not_safe_is_refused_and_nothing_is_written(server, home, archive, fault):
    server.content = archive
    message = failure("tones", server.download())
    assert f"cannot unpack tones, from {server.url}: " in message
    assert fault in message
    assert "expected a whole zip file of plain files inside its own folder" in message
    assert message.endswith("give its folder with --source")
    assert left_in(home) == set()
    assert not list(home.parent.rglob("out.wav"))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_is_there_twice_is_refused(server, home):
    server.content = zip_with(entry("Actor_01//a.wav"))
    assert "is there twice" in failure("tones", server.download())
    assert left_in(home) == set()


def test_an_encrypted_member_is_refused(server, home):
    content = bytearray(zip_of({"a.wav": b"x" * 100}))
    directory = content.index(b"PK\x01\x02")
    content[directory + 8] |= 1
    server.content = bytes(content)
    assert "its member 'a.wav' is encrypted" in failure("tones", server.download())
    assert left_in(home) == set()


def test_a_bomb_is_refused_by_its_directory(server, home, monkeypatch):
    monkeypatch.setattr(downloading, "ALWAYS_ALLOWED_BYTES", 1_000_000)
    server.content = zip_of({"zeros.wav": bytes(10_000_000)})
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("unpacked"))
    assert len(server.content) < 20_000
    message = failure("tones", server.download())
    assert "it would unpack to 10 MB\n" in message
    assert left_in(home) == set()


def test_a_bomb_that_lies_about_its_size_is_refused(server, home, monkeypatch):
    content = zip_of({"zeros.wav": bytes(10_000_000)})
    server.content = content.replace((10_000_000).to_bytes(4, "little"), (1000).to_bytes(4, "little"))
    assert server.content != content
    assert "Bad CRC-32 for file 'zeros.wav'" in failure("tones", server.download())
    assert left_in(home) == set()


def test_bytes_are_counted_while_they_are_written(server, home, monkeypatch, tmp_path):
    archive = tmp_path / "zeros.zip"
    archive.write_bytes(zip_of({"a.wav": bytes(3_000_000), "b.wav": bytes(3_000_000)}))
    with zipfile.ZipFile(archive) as zipped, pytest.raises(zipfile.BadZipFile, match="it unpacks to more than 4 MB"):
        unpacking.write_members(zipped, zipped.infolist(), tmp_path / "there", 4_000_000)


def test_too_many_members_are_refused(server, home, monkeypatch):
    monkeypatch.setattr(unpacking, "MAX_MEMBERS", 5)
    message = failure("tones", server.download())
    assert "it has 7 members, at most 5 are unpacked" in message
    assert left_in(home) == set()


@pytest.mark.parametrize("kept_bytes", [100, 100_000, len(ARCHIVE) - 10])
def test_a_truncated_archive_is_a_sentence(server, home, kept_bytes):
    server.content = ARCHIVE[:kept_bytes]
    assert "File is not a zip file\n" in failure("tones", server.download())
    assert left_in(home) == set()


def test_a_damaged_member_is_a_sentence(server, home):
    content = zip_of(RECORDINGS, zipfile.ZIP_STORED)
    server.content = content[:100_000] + bytes([content[100_000] ^ 1]) + content[100_001:]
    assert "Bad CRC-32 for file 'Actor_04/03-01-04.wav'" in failure("tones", server.download())
    assert left_in(home) == set()


def test_any_damage_at_all_is_a_sentence(server, home):
    """Bytes of the headers and of the directory changed, one at a time."""
    whole = zip_of({"a.wav": b"RIFF" * 20, "b/c.wav": b"RIFF" * 20})
    place, download = home / "downloads" / "tones.zip", Download("http://x/", None, 1000, None)
    place.parent.mkdir(parents=True)
    refused = 0
    for position in range(len(whole)):
        place.write_bytes(whole[:position] + bytes([whole[position] ^ 0x80]) + whole[position + 1 :])
        try:
            folder = download_corpus("tones", download)
        except SerError as error:
            refused += 1
            assert str(error).startswith("cannot unpack tones, from http://x/: "), position
        else:  # dates, versions and comments do not matter
            shutil.rmtree(folder)
        assert left_in(home) == set()
    assert refused > len(whole) / 3


def test_what_a_mac_adds_is_left_out(server):
    server.content = zip_of(
        RECORDINGS | {"__MACOSX/Actor_01/._03-01-01.wav": b"x", "Actor_01/._03-01-01.wav": b"x", "Empty/": b""}
    )
    assert_recordings_in(download_corpus("tones", server.download()))


def test_a_failure_leaves_the_hub_as_talkative_as_it_was(server):
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    server.statuses = [404]
    with contextlib.suppress(SerError):
        download_corpus("tones", server.download())
    assert logger.level == before


def test_a_person_sees_the_licence_first(home):
    corpus = Corpus(
        name="tones",
        title="Tones for tests",
        licence="CC BY-NC-SA 4.0",
        homepage="https://example.org/tones",
        label_sets=(),
        read=lambda _: Listing(()),
        layout="",
        download=Download("https://example.org/tones.zip", 208_468_073, 1_290_000_000, None),
    )
    assert describe_download(corpus) == [
        "tones: Tones for tests",
        "  licence: CC BY-NC-SA 4.0",
        "  homepage: https://example.org/tones",
        "  archive: https://example.org/tones.zip (208 MB)",
        "  its publisher gives no checksum; the archive's own are checked",
        f"  goes to: {home / 'sources' / 'tones'} (1.3 GB unpacked)",
    ]
    unknown = replace(corpus, download=replace(corpus.download, size_bytes=None))
    assert "  archive: https://example.org/tones.zip (size unknown)" in describe_download(unknown)


def test_nothing_heavy_is_imported_before_it_is_needed():
    heavy = ("torch", "huggingface_hub", "transformers", "tqdm")
    code = f"import sys, ser_cli.preparation.downloading; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_ser_prepare_shows_the_licence_fetches_and_prepares(ser, server, monkeypatch, home):
    names = [f"03-01-0{emotion}-01-01-01-0{actor}" for emotion in (1, 3) for actor in (1, 2)]
    server.content = zip_of({f"Actor_{name[-2:]}/{name}.wav": wav_of(seed) for seed, name in enumerate(names)})
    known = replace(CORPORA["ravdess"], download=server.download())
    monkeypatch.setitem(CORPORA, "ravdess", known)
    dry = ser("prepare", "--dataset", "ravdess", "--download", "--dry-run")
    assert dry.exit_code == 0
    assert "its recordings would be fetched, then decoded" in dry.stderr
    assert not server.ranges
    result = ser("prepare", "--dataset", "ravdess", "--download", "--json")
    assert result.exit_code == 0, result.stderr
    assert result.stderr.index("CC BY-NC-SA 4.0") < result.stderr.index("clips  ")
    assert json.loads(result.stdout)["utterances"] == 4
    again = ser("prepare", "--dataset", "ravdess", "--download", "--quiet")
    assert again.exit_code == 0
    assert len(server.ranges) == 1
    assert ser("prepare", "--dataset", "ravdess").exit_code == 0


def wav_of(seed: int) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, np.random.default_rng(seed).normal(0, 0.1, 1600), 16_000, format="WAV")
    return content.getvalue()
