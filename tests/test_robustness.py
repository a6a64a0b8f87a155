"""The built-in encoder does not listen to the studio: loudness, silence around clips and some noise change little."""

import os
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch

from ser_cli.evaluation.scores import evaluate_run
from ser_cli.models.building import build_model
from ser_cli.recipe import load_recipe
from ser_cli.runs.directory import Run
from tests.benchmarks import robustness
from tests.benchmarks.robustness import CHANGES, Row, as_table, measure_run, mixed, power, sounding
from tests.conftest import TINY
from tests.data.stored import stored_corpus

HOP = 256
"""Samples between frames of the recipe's spectrogram: 16 ms."""


def spoken(samples: int = 24_064, quiet: int = 4 * HOP, *, seed: int = 0) -> np.ndarray:
    """Noise that swells and fades four times a second, with a faint floor alone at both ends, as in a studio."""
    rng = np.random.default_rng(seed)
    time = np.arange(samples) / 16_000
    sound = rng.normal(0, 0.1, samples) * (0.3 + np.sin(2 * np.pi * 4 * time) ** 2)
    sound[:quiet] *= 1e-4
    sound[-quiet:] *= 1e-4
    return sound.astype(np.float32)


def decibels(ratio: float) -> float:
    return 10 * np.log10(ratio)


@pytest.mark.parametrize("seed", [0, 1])
def test_neither_loudness_nor_digital_silence_at_the_ends_changes_what_a_model_hears(seed):
    torch.manual_seed(seed)
    model = build_model(load_recipe("conformer"), num_classes=8).eval()
    clip = spoken(seed=seed)

    @torch.inference_mode()
    def probabilities(waveform: np.ndarray) -> np.ndarray:
        row = torch.from_numpy(waveform)[None]
        return model(row, torch.tensor([row.shape[1]])).logits.double().softmax(dim=-1)[0].numpy()

    heard = probabilities(clip)
    other = probabilities(spoken(seed=seed + 10))
    assert np.abs(other - heard).max() > 3e-3  # another clip does change them
    for factor in (10**0.5, 10**-0.5):  # 10 dB of amplitude
        assert np.abs(probabilities(np.float32(factor) * clip) - heard).max() < 1e-3
    for before, after in ((62 * HOP, 62 * HOP), (HOP, 125 * HOP), (100 * HOP, 0)):
        assert np.abs(probabilities(np.pad(clip, (before, after))) - heard).max() < 1e-3


def change_named(start: str) -> robustness.Change:
    (found,) = [change for change in CHANGES if change.name.startswith(start)]
    return found


def test_the_limits_are_those_that_were_asked_for():
    limits = {change.name: change.limit for change in CHANGES}
    assert limits == {
        **{"+10 dB": 3.0, "-10 dB": 3.0},
        **{"1 s of silence at both ends": 1.0, "0.5 to 2 s of silence at both ends": 1.0},
        **{"white noise, 20 dB": 10.0, "babble of 6, 20 dB": 10.0},
    }


@pytest.mark.parametrize(("name", "gain_db"), [("+10", 10), ("-10", -10)])
def test_loudness_is_changed_by_what_is_said(name, gain_db):
    clip = spoken()
    changed = change_named(name).apply(clip, np.random.default_rng(0), [])
    assert decibels(power(changed) / power(clip)) == pytest.approx(gain_db, abs=1e-3)


def test_silence_is_digital_and_as_long_as_is_said():
    clip = spoken()
    second = change_named("1 s").apply(clip, np.random.default_rng(0), [])
    np.testing.assert_array_equal(second, np.concatenate([np.zeros(16_000), clip, np.zeros(16_000)]))
    drawn = [change_named("0.5 to 2 s").apply(clip, np.random.default_rng(seed), []) for seed in range(40)]
    before = [int(np.flatnonzero(changed)[0]) for changed in drawn]
    after = [len(changed) - len(clip) - start for changed, start in zip(drawn, before, strict=True)]
    assert all(8_000 <= samples <= 32_000 for samples in [*before, *after])
    assert max(before) - min(before) > 16_000 and before != after


@pytest.mark.parametrize("name", ["white", "babble"])
def test_noise_lies_20_db_under_the_sounding_part_and_covers_the_whole_clip(name):
    clip = spoken(quiet=8_000)
    voices = [[spoken(12_032, seed=seed), spoken(9_000, seed=seed + 20)] for seed in range(1, 9)]
    noise = change_named(name).apply(clip, np.random.default_rng(0), voices) - clip
    assert decibels(power(clip[8_000:-8_000]) / power(noise)) == pytest.approx(20, abs=0.1)
    for part in np.array_split(noise, 8):
        assert abs(decibels(power(part) / power(noise))) < 3


def test_babble_is_six_voices_that_are_equally_loud():
    # Voices of one frequency each, of very different levels, so that they can be told apart.
    time = np.arange(16_000) / 16_000
    voices = [[(2.0**-n * np.sin(2 * np.pi * 1000 * n * time)).astype(np.float32)] for n in range(1, 8)]
    clip = spoken(16_000)
    babble = change_named("babble").apply(clip, np.random.default_rng(3), voices) - clip
    spectrum = np.abs(np.fft.rfft(babble.astype(np.float64))) ** 2
    lines = np.array([spectrum[1000 * n] for n in range(1, 8)])
    heard = lines > 0.01 * lines.max()
    assert heard.sum() == 6
    assert lines[heard].max() / lines[heard].min() < 1.02
    assert lines.sum() / spectrum.sum() > 0.98


def test_what_sounds_is_what_lies_less_than_40_db_under_the_loudest_block():
    clip = np.zeros(10 * HOP, np.float32)
    clip[2 * HOP : 3 * HOP] = 0.011  # 39.2 dB under 1
    clip[5 * HOP : 6 * HOP] = 1.0
    clip[8 * HOP : 9 * HOP] = 0.009  # 40.9 dB under 1
    assert len(sounding(clip)) == 4 * HOP
    silent = np.zeros(HOP, np.float32)
    assert len(sounding(silent)) == HOP
    assert np.isfinite(mixed(silent, np.ones(HOP), 20.0)).all()


def test_all_clips_of_the_speakers_are_changed_alike_each_time_and_no_others(tmp_path):
    corpus = stored_corpus(tmp_path / "corpus", {f"{n:02d}": 4_000 + 100 * n for n in range(12)})
    ids = ["01", "03"]  # two clips of the speakers p1 and p3
    voices = ["00", "02", "04", "06"]
    made = []
    for place in ("first", "second", "third"):
        (tmp_path / place).mkdir()
        seed = 1 if place == "third" else 0
        change = change_named("babble")
        made.append(robustness.changed_corpus(corpus, ids, change, voices, tmp_path / place, seed))
    assert sorted(made[0].by_id) == ["01", "03", "05", "07", "09", "11"]
    for identity in made[0].by_id:
        first, second, third = (changed.waveform(identity) for changed in made)
        np.testing.assert_array_equal(first, second)
        assert not np.array_equal(first, third)
        clip = corpus.waveform(identity)
        assert decibels(power(clip) / power(first - clip)) == pytest.approx(20, abs=0.1)


def test_the_table_tells_the_mean_change_and_that_of_each_fold():
    rows = [Row("clean", None, (0.6, 0.5), (0.6, 0.5)), Row("+10 dB", 3.0, (0.62, 0.45), (0.6, 0.5))]
    assert rows[1].change_points == pytest.approx(-1.5)
    assert as_table(rows).splitlines()[2:] == [
        "| clean | 55.0 |  |  |  |",
        "| +10 dB | 53.5 | -1.5 | +2.0, -5.0 | below 3 |",
    ]


def test_a_run_that_normalises_by_speaker_is_measured_on_the_side_that_is_asked_for(ser, tones):
    options = ("--folds", 2, *TINY, "--epochs", 1, "--set", "normalization.by=speaker", "--fold", 1)
    held_out = ("--set", "selection.by=validation", "--set", "selection.validation_speakers=1")
    trained = ser("train", "--manifest", tones, *options, *held_out, "--output", "run")
    assert trained.exit_code == 0, trained.stderr
    rows, sentences = measure_run(Path("run"))
    assert [row.name for row in rows] == ["clean", *(change.name for change in CHANGES)]
    assert all(len(row.rates) == 1 and 0 <= row.rates[0] <= 1 for row in rows)
    assert sentences == []
    # The offsets are those of the changed clips: a gain that all clips of a speaker share changes nothing.
    assert rows[1].rates == rows[2].rates == rows[0].rates
    tested, _ = measure_run(Path("run"), "test")
    assert tested[0].rates == (evaluate_run(Run(Path("run"))).folds[0][1].ua,)
    sides = Path("run/folds.csv")
    sides.write_text(sides.read_text().replace(",validation,", ",train,"))
    assert measure_run(Path("run")) == ([], ["Fold 1 has no validation side and is left out."])


# The recipe as it is shipped, all of its epochs and the last one, from 16 actors; the 8 others are heard, of whom a
# clip is 0.2 points, if neutral 0.4. Shorter trainings, an epoch that was chosen on the same clips and one draw of
# babble say more of rounding than of the recipe: 10 epochs without mixed styles lost less than 10 points of UA on some
# machines and 12.8 on others, and of one model three draws took 9.6, 5.5 and 7.0.
@pytest.mark.corpus
def test_loudness_silence_and_noise_change_little_of_what_real_speech_gives(ser):
    source = Path(os.environ["SER_TEST_DATA"]) / "ravdess"
    assert ser("prepare", "--dataset", "ravdess", "--source", source, "-q").exit_code == 0
    options = ("--folds", 3, "--fold", 1, "--recipe", "conformer", "--device", "cpu", "-q", "--output", "run")
    trained = ser("train", "--dataset", "ravdess", *options)
    assert trained.exit_code == 0, trained.stderr
    draws = [measure_run(Path("run"), "test", seed=seed)[0] for seed in range(3)]
    assert draws[0][0].rates[0] > 0.5  # chance is 0.125: a model that has learnt much, so that there is much to lose
    for rows in zip(*(draw[1:] for draw in draws), strict=True):
        assert rows[0].limit is not None
        assert abs(fmean(row.change_points for row in rows)) < rows[0].limit, "\n\n".join(map(as_table, draws))
