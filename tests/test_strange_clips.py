"""Valid recordings that hold strange values: each has a defined answer, and none of them is NaN.

| clip | prepare | predict | predict --window |
|---|---|---|---|
| digital silence | skipped: only silence | error: only silence | labelled, as a pause in a meeting is |
| one sample, 24.9 ms | skipped: too short | error: too short | error: too short |
| constant, offset, square wave at full scale, 1e-30, one click, 25 ms | stored as it is | labelled | labelled |
| 32-bit integers stored as floats | stored as it is | labelled | labelled |
| NaN, infinite, beyond 2^31 | skipped: such values | error | error, after the windows before |
"""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.tiny_run import train_tiny_run

RATE = 16_000
TIME = np.arange(RATE) / RATE
TONE = 0.3 * np.sin(2 * np.pi * 220 * TIME)


def click() -> np.ndarray:
    samples = np.zeros(RATE)
    samples[RATE // 2] = 1.0
    return samples


def one_bad(value: float) -> np.ndarray:
    samples = TONE.copy()
    samples[12_000] = value
    return samples


USED = {
    "constant": np.full(RATE, 0.25),
    "least-constant": np.full(RATE, 2.0**-31),
    "offset": TONE + 0.6,
    "full-scale-square": np.sign(np.sin(2 * np.pi * 100 * TIME + 0.1)),
    "clipped-noise": np.clip(np.random.default_rng(0).normal(0, 9, RATE), -1, 1),
    "1e-30": TONE * 1e-30,
    "subnormal": np.full(RATE, 1e-42),
    "click": click(),
    "25-ms": TONE[:400],
    "integers-as-floats": TONE * 2.0**31,
}
REFUSED = {
    "silent": (np.zeros(RATE), "holds only silence"),
    "one-sample": (np.full(1, 0.5), "lasts 0.1 ms"),
    "24.9-ms": (TONE[:399], "lasts 24.9 ms"),
    "no-sample": (np.zeros(0), "lasts 0.0 ms"),
    "nan": (one_bad(np.nan), "not finite"),
    "infinite": (one_bad(np.inf), "not finite"),
    "huge": (one_bad(1e38), "holds values up to 1e+38"),
}


@pytest.fixture
def clips(tmp_path) -> Path:
    folder = tmp_path / "strange"
    folder.mkdir()
    rows = [("path", "emotion", "speaker")]
    named = USED | {name: samples for name, (samples, _) in REFUSED.items()}
    for number, (name, samples) in enumerate(sorted(named.items())):
        soundfile.write(folder / f"{name}.wav", samples, RATE, subtype="FLOAT")
        rows.append((f"{name}.wav", ("sad", "happy")[number % 2], f"p{number % 3}"))
    with (folder / "strange.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


def test_strange_clips_are_stored_as_they_are_or_named(ser, clips):
    result = ser("prepare", "--manifest", clips / "strange.csv", "--skip-unreadable")
    assert result.exit_code == 0, result.stderr
    prepared = Path(result.stdout.strip()).parent
    skipped = {Path(row["path"]).stem: row["reason"] for row in csv.DictReader((prepared / "skipped.csv").open())}
    assert set(skipped) == set(REFUSED)
    for name, (_, told) in REFUSED.items():
        assert told in skipped[name]
    stored = np.fromfile(prepared / "audio.f32", "<f4")
    for row in csv.DictReader((prepared / "audio.csv").open()):
        start = int(row["offset"])
        waveform = stored[start : start + int(row["samples"])]
        np.testing.assert_array_equal(waveform, USED[row["id"]].astype(np.float32))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return train_tiny_run(tmp_path_factory.mktemp("trained"))


@pytest.mark.parametrize("options", [(), ("--window", 0.3, "--hop", 0.1)])
@pytest.mark.parametrize("batch_size", [1, 16])
def test_strange_clips_are_labelled_without_nan_or_named(ser, clips, model, options, batch_size):
    names = sorted((*USED, *REFUSED))
    paths = [clips / f"{name}.wav" for name in names]
    command = ("predict", "--model", model, "--device", "cpu", "--json", "--batch-size", batch_size)
    result = ser(*command, *options, *paths)
    assert result.exit_code == 1
    answers: dict[str, list[dict]] = {name: [] for name in names}
    for line in result.stdout.splitlines():  # "NaN" is no JSON of ours: writing it would have failed
        row = json.loads(line)
        answers[Path(row["path"]).stem].append(row)
    for name, rows in answers.items():
        labelled = [row for row in rows if "error" not in row]
        for row in labelled:
            assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-4)
            assert row["label"] == max(row["probabilities"], key=row["probabilities"].__getitem__)
        if name in USED:
            assert len(labelled) == len(rows) >= 1
        else:
            assert REFUSED[name][1] in rows[-1]["error"]
            assert not labelled or options
    if not options:
        assert all(len(rows) == 1 for rows in answers.values())
