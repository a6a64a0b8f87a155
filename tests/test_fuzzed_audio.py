"""No recording, whatever is wrong with it, makes `ser` crash, hang or grow; each is used, or named with its reason.

Memory is measured in two ways in the process that does the work: its address space may grow by 1 GiB beyond what
the imports took, and its highest resident set may lie 1 GiB above that of the imports.
"""

import csv
import json
import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ser_cli.data.audio import read_recording
from ser_cli.data.streaming import read_windows
from ser_cli.errors import AudioError
from tests.conftest import write_tone
from tests.measured_process import Measured, measure
from tests.mutants import make_mutants, write_bases
from tests.tiny_run import train_tiny_run

SEED = 7
OTHER = "9999-other.wav"
"""Says another emotion than all others: a corpus has two."""

NO_FILES = ("odd-folder.wav", "odd-fifo.wav", "odd-fifo.m4a", "odd-socket.wav", "odd-loop.wav")
"""What a manifest may not name, so that `prepare` ends before it decodes anything; `predict` names each and goes on."""

LIMIT_MIB = 1024
LONGEST_DECODING_S = 10.0

needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


@dataclass(frozen=True)
class Specimens:
    """What is fed to `ser`."""

    folder: Path
    recipes: dict[str, str]
    """By name of the file below the folder."""
    whole: tuple[str, ...]
    """Names of those that nothing was done to."""

    def told(self, name: str) -> str:
        return f"{name} ({self.recipes[name]}; kept in {self.folder})"


def write_specimens(folder: Path, bases: dict[str, bytes], number: int) -> Specimens:
    """Mutants, odd things that are called recordings, and whole recordings between them."""
    folder.mkdir(parents=True)
    recipes: dict[str, str] = {}
    for mutant in make_mutants(bases, number, SEED):
        (folder / mutant.name).write_bytes(mutant.content)
        recipes[mutant.name] = mutant.recipe
    recipes |= _write_odd_things(folder, next(content for name, content in bases.items() if name.endswith(".wav")))
    whole = []
    for name, content in bases.items():
        for place in ("0000", "0500", "9999"):
            (folder / f"{place}-whole-{name}").write_bytes(content)
            whole.append(f"{place}-whole-{name}")
            recipes[whole[-1]] = f"{name} as it was"
    write_tone(folder / OTHER, 900)
    recipes[OTHER] = "a tone"
    return Specimens(folder, dict(sorted(recipes.items())), (*whole, OTHER))


def _write_odd_things(folder: Path, wav: bytes) -> dict[str, str]:
    (folder / "odd-empty.wav").touch()
    (folder / "odd-text.wav").write_text("path,emotion,speaker\n" * 50)
    (folder / "odd-folder.wav").mkdir()
    (folder / "odd-picture.flac").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(500))
    (folder / "odd-wav.flac").write_bytes(wav)
    (folder / "odd-wav.mp4").write_bytes(wav)
    (folder / "odd-list.mp4").write_text(f"ffconcat version 1.0\nfile 0000-whole-{'pcm16.wav'}\n")
    (folder / "odd-playlist.m4a").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nodd-wav.flac\n")
    for suffix in ("wav", "m4a"):
        os.mkfifo(folder / f"odd-fifo.{suffix}")
    here = Path.cwd()
    os.chdir(folder)  # the path of a socket has at most 107 bytes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("odd-socket.wav")
    os.chdir(here)
    (folder / "odd-loop.wav").symlink_to("odd-loop.wav")
    (folder / "odd-nowhere.wav").symlink_to("nowhere.wav")
    return {path.name: "made by hand" for path in folder.iterdir() if path.name.startswith("odd-")}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return train_tiny_run(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def specimens(tmp_path_factory) -> Specimens:
    folder = tmp_path_factory.mktemp("fuzz")
    return write_specimens(folder / "files", write_bases(folder / "bases"), 2_400)


@pytest.fixture(scope="module")
def real_specimens(tmp_path_factory) -> Specimens:
    """Mutants of RAVDESS clips: FLAC at 16 kHz, the original WAV files at 48 kHz, one and two channels."""
    data = Path(os.environ["SER_TEST_DATA"])
    chosen = [*sorted((data / "ravdess").rglob("*.flac"))[:2], *sorted((data / "ravdess-48k-sample").rglob("*.wav"))]
    stereo = [path for path in chosen[2:] if soundfile.info(path).channels == 2]
    bases = {path.name: path.read_bytes() for path in [*chosen[:4], *stereo[:1]]}
    return write_specimens(tmp_path_factory.mktemp("real") / "files", bases, 250)


def write_manifest(specimens: Specimens) -> Path:
    # One speaker and one emotion: mutants that decode to equal samples do not contradict each other then.
    names = [name for name in specimens.recipes if name not in NO_FILES]
    rows = [(name, name, "happy" if name == OTHER else "sad", "p1") for name in names]
    path = specimens.folder / "all.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "id", "emotion", "speaker"), *rows])
    return path


def check_process(measured: Measured, specimens: Specimens, work: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What holds for any command: it ends in sentences, in time and in little memory."""
    assert "Traceback" not in measured.stdout + measured.stderr, measured.stderr[-3000:]
    slowest = max(measured.decoding_s, key=measured.decoding_s.__getitem__)
    assert measured.decoding_s[slowest] < LONGEST_DECODING_S, specimens.told(Path(slowest).name)
    grown_mib = measured.peak_mib - measured.baseline_mib
    assert grown_mib < LIMIT_MIB
    with capsys.disabled():
        print(
            f"\n{work}: {len(specimens.recipes)} files in {measured.wall_s:.1f} s, slowest {Path(slowest).name}"
            f" {measured.decoding_s[slowest]:.2f} s, {grown_mib:.0f} MiB above {measured.baseline_mib:.0f} MiB"
        )


def check_reason(reason: str, told: str) -> None:
    assert reason and len(reason) < 400, f"{told}: {reason}"
    assert reason.isprintable(), f"{told}: {reason!r}"
    # A header that makes us ask for its gigabytes would end here, by the limit of the address space.
    assert "allocate" not in reason.lower(), f"{told}: {reason}"


def check_prepare(specimens: Specimens, tmp_path: Path, capsys) -> set[str]:
    """Prepare all of it; the names of what was used."""
    manifest = write_manifest(specimens)
    command = ("prepare", "--manifest", manifest, "--skip-unreadable")
    measured = measure(command, tmp_path / "prepare.jsonl", limit_mib=LIMIT_MIB)
    check_process(measured, specimens, "prepare", capsys)
    assert measured.exit_code == 0, measured.stderr[-3000:]
    prepared = Path(measured.stdout.strip()).parent
    used = {Path(row["path"]).name for row in csv.DictReader((prepared / "manifest.csv").open())}
    skipped = {Path(row["path"]).name: row["reason"] for row in csv.DictReader((prepared / "skipped.csv").open())}
    for name, reason in skipped.items():
        assert str(specimens.folder / name) in reason
        check_reason(reason, specimens.told(name))
    assert not used & set(skipped)
    assert used | set(skipped) == set(specimens.recipes) - set(NO_FILES)
    assert set(specimens.whole) <= used
    stored = np.memmap(prepared / "audio.f32", "<f4", mode="r")
    assert np.isfinite(stored).all()
    with capsys.disabled():
        print(f"prepare: {len(used)} used, {len(skipped)} named in skipped.csv")
    refused = measure((*command[:-1], "--force"), tmp_path / "refused.jsonl", limit_mib=LIMIT_MIB)
    assert refused.exit_code == 1
    assert f"{len(skipped):,} problems" in refused.stderr
    # libsndfile lets mpg123 write to the terminal what it thinks of an MP3 file; no setting of it stops that.
    own = [line for line in refused.stderr.splitlines() if not line.startswith(("Warning: ", "Note: ", "[src/libmpg"))]
    assert len([line for line in own if line.strip()]) < 10, own
    return used


def check_predict(specimens: Specimens, model: Path, tmp_path: Path, used: set[str], capsys, *, windows: bool) -> None:
    """Label all of it; a file gets a label where `prepare` used it, and there alone."""
    paths = [str(specimens.folder / name) for name in specimens.recipes]
    options = ("--window", "0.2", "--hop", "0.1") if windows else ()
    command = ("predict", "--model", model, "--json", "--device", "cpu", *options, "-")
    work = "predict --window" if windows else "predict"
    stdin = "".join(f"{path}\n" for path in paths)
    measured = measure(command, tmp_path / f"{windows}.jsonl", stdin=stdin, limit_mib=LIMIT_MIB)
    check_process(measured, specimens, work, capsys)
    assert measured.exit_code == 1
    answers: dict[str, list[dict]] = {}
    for line in measured.stdout.splitlines():
        answer = json.loads(line)
        answers.setdefault(answer["path"], []).append(answer)
    assert list(answers) == paths  # each is answered, in order
    failed = set()
    for path, rows in answers.items():
        told = specimens.told(Path(path).name)
        assert len(rows) == 1 or windows, told
        for row in rows:
            if "error" in row:
                failed.add(Path(path).name)
                assert row is rows[-1], told
                check_reason(row["error"], told)
            else:
                assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-4), told  # so none is NaN
    silent = {name for name in failed ^ (set(specimens.recipes) - used) if windows}
    for name in silent:  # in windows, silence is classified as any part of a meeting is
        with pytest.raises(AudioError, match="holds only silence"):
            read_recording(specimens.folder / name)
    assert failed | silent == set(specimens.recipes) - used
    assert f"{len(failed):,} of" in measured.stderr
    with capsys.disabled():
        print(f"{work}: {len(answers) - len(failed)} answered, {len(failed)} named")


def test_some_spoilt_files_are_decoded_alike_as_a_whole_and_in_windows_or_refused_by_both(tmp_path):
    specimens = write_specimens(tmp_path / "files", write_bases(tmp_path / "bases"), 150)
    used = 0
    for name in specimens.recipes:
        path = specimens.folder / name
        try:
            waveform = read_recording(path).waveform
        except AudioError as error:
            check_reason(str(error), specimens.told(name))
            if "only silence" not in str(error):
                with pytest.raises(AudioError):
                    list(read_windows(path, 0.2, 0.2))
            continue
        used += 1
        assert np.isfinite(waveform).all(), specimens.told(name)
        pieces = [piece.waveform for piece in read_windows(path, 0.2, 0.2)]
        cut = np.concatenate(pieces)
        assert len(waveform) - len(cut) < 400, specimens.told(name)  # what is under 25 ms at the end is left out
        np.testing.assert_array_equal(cut, waveform[: len(cut)], err_msg=specimens.told(name))
    assert len(specimens.whole) < used < len(specimens.recipes)


def test_the_same_seed_spoils_the_same_way(tmp_path):
    bases = write_bases(tmp_path / "bases")
    first, second = (list(make_mutants(bases, 120, SEED)) for _ in range(2))
    assert first == second
    assert first != list(make_mutants(bases, 120, SEED + 1))
    assert sum(mutant.content != bases[mutant.name.partition("-")[2]] for mutant in first) > 100


def test_devices_and_loops_are_named_and_not_read(ser, model, tmp_path):
    for name, target in (("zero.wav", "/dev/zero"), ("random.m4a", "/dev/urandom"), ("loop.wav", "loop.wav")):
        (tmp_path / name).symlink_to(target)
    os.mkfifo(tmp_path / "fifo.wav")
    names = ["zero.wav", "random.m4a", "fifo.wav", "loop.wav"]
    for options in ((), ("--window", 1)):
        result = ser("predict", "--model", model, "--device", "cpu", *options, *(tmp_path / name for name in names))
        assert result.exit_code == 1
        reasons = [line.split("\t")[3 if options else 1 :] for line in result.stdout.splitlines()]
        device = "cannot be decoded (it is a device; expected a file)"
        fifo = "cannot be decoded (it is a FIFO; expected a file)"
        assert reasons[:3] == [["error", device], ["error", device], ["error", fifo]]
        assert reasons[3][1].startswith("cannot be decoded (")
    write_tone(tmp_path / "tone.wav", 300)
    for name, told in (("zero.wav", "lies outside"), ("fifo.wav", "is a folder, a pipe or a device")):
        (tmp_path / "two.csv").write_text(f"path,emotion,speaker\n{name},sad,p1\ntone.wav,happy,p2\n")
        result = ser("prepare", "--manifest", tmp_path / "two.csv")
        assert (result.exit_code, told in result.stderr) == (2, True), result.stderr


@needs_proc
@pytest.mark.slow
def test_2400_spoilt_files_are_each_used_or_named(specimens, model, tmp_path, capsys):
    assert sum(recipe != "made by hand" for recipe in specimens.recipes.values()) >= 2_400
    used = check_prepare(specimens, tmp_path, capsys)
    assert len(specimens.whole) < len(used) < len(specimens.recipes) - 100
    check_predict(specimens, model, tmp_path, used, capsys, windows=False)
    check_predict(specimens, model, tmp_path, used, capsys, windows=True)


@needs_proc
@pytest.mark.corpus
def test_250_spoilt_copies_of_real_recordings_are_each_used_or_named(real_specimens, model, tmp_path, capsys):
    used = check_prepare(real_specimens, tmp_path, capsys)
    check_predict(real_specimens, model, tmp_path, used, capsys, windows=False)
    check_predict(real_specimens, model, tmp_path, used, capsys, windows=True)
