"""What is laid behind training clips, measured in what comes out."""

from dataclasses import replace

import pytest
import torch
from scipy.stats import kstest, kurtosis

from ser_cli.models.background import MOST_VOICES, Background, babble
from ser_cli.models.building import build_model
from ser_cli.models.endpoints import cut_to_spans
from ser_cli.recipe import load_recipe

CLIPS, LENGTH, START, SOUND = 64, 24_000, 8_000, 8_000
ALWAYS = Background(share=1.0, min_snr_db=12.0, max_snr_db=40.0, max_margin=4_000)


def clips() -> torch.Tensor:
    """Half a second of loud noise between silence, each clip at another level."""
    generator = torch.Generator().manual_seed(1)
    waves = torch.zeros(CLIPS, LENGTH)
    waves[:, START : START + SOUND] = torch.randn(CLIPS, SOUND, generator=generator)
    return waves * torch.linspace(0.01, 1, CLIPS)[:, None]


def laid(background: Background, waves: torch.Tensor, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    where = torch.full((len(waves),), START), torch.full((len(waves),), SOUND), torch.full((len(waves),), LENGTH)
    return background(waves, *where, torch.Generator().manual_seed(seed))


def margin_before(row: torch.Tensor, wave: torch.Tensor) -> int:
    """By how much the sounding part is shifted: where the two agree best."""
    sound = wave[START : START + SOUND]
    return int(torch.nn.functional.conv1d(row[None, None], sound[None, None]).argmax())


def test_the_ratio_to_the_background_is_uniform_between_its_bounds():
    waves = clips()
    rows, sizes = laid(ALWAYS, waves)
    ratios = []
    for row, size, wave in zip(rows, sizes.tolist(), waves, strict=True):
        before = margin_before(row, wave)
        added = row[:size] - wave[START - before : START - before + size]
        ratios.append(float(10 * torch.log10(wave[START : START + SOUND].square().mean() / added.square().mean())))
    assert min(ratios) >= 12.0 and max(ratios) <= 40.01
    assert kstest(ratios, "uniform", args=(12.0, 28.0)).pvalue > 0.01


def test_half_of_the_clips_keep_a_margin_on_a_side_never_longer_than_allowed():
    waves = clips()
    rows, sizes = laid(ALWAYS, waves)
    before = torch.tensor([margin_before(row, wave) for row, wave in zip(rows, waves, strict=True)])
    behind = sizes - SOUND - before
    for margins in (before, behind):
        assert int(margins.min()) >= 0 and int(margins.max()) <= 4_000
        kept = int((margins > 0).sum())
        assert CLIPS / 4 < kept < 3 * CLIPS / 4
        assert 1_200 < float(margins[margins > 0].double().mean()) < 2_800


def test_some_backgrounds_are_white_noise_and_some_are_voices():
    # Voices of a few samples that are not zero: what they add is far from a normal distribution.
    waves = torch.zeros(CLIPS, LENGTH)
    waves[:, START : START + SOUND : 400] = 1.0
    rows, sizes = laid(replace(ALWAYS, max_margin=0), waves)
    assert sizes.tolist() == [SOUND] * CLIPS
    peaked = [
        float(kurtosis((row - wave[START : START + SOUND]).numpy())) > 3 for row, wave in zip(rows, waves, strict=True)
    ]
    assert CLIPS / 4 < sum(peaked) < 3 * CLIPS / 4


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_the_share_of_clips_is_kept_and_the_others_are_cut_as_they_are(share):
    waves = clips()
    rows, sizes = laid(replace(ALWAYS, share=share), waves)
    alone = cut_to_spans(waves, torch.full((CLIPS,), START), torch.full((CLIPS,), SOUND))
    same = [
        size == SOUND and torch.equal(row[:SOUND], sound) for row, size, sound in zip(rows, sizes, alone, strict=True)
    ]
    assert sum(same) == CLIPS if share == 0 else CLIPS * 0.5 < sum(same) < CLIPS * 0.9


def test_behind_a_clip_nothing_is_added_and_the_clips_themselves_stay():
    waves = clips()
    before = waves.clone()
    rows, sizes = laid(ALWAYS, waves)
    assert torch.equal(waves, before)
    assert not any(row[size:].any() for row, size in zip(rows, sizes.tolist(), strict=True))


def test_a_clip_keeps_no_more_around_it_than_it_has():
    wave = clips()[:, START : START + SOUND]
    whole = torch.zeros(CLIPS, dtype=torch.long), torch.full((CLIPS,), SOUND), torch.full((CLIPS,), SOUND)
    rows, sizes = ALWAYS(wave, *whole, torch.Generator().manual_seed(0))
    assert rows.shape == (CLIPS, SOUND) and sizes.tolist() == [SOUND] * CLIPS


def test_voices_of_a_babble_are_equally_loud_repeated_and_up_to_six():
    # Tones of whole periods, each its own: the spectrum tells who speaks, how loud, and that the end meets the start.
    time = torch.arange(1_600) / 16_000
    voices = [(1 + level) * torch.sin(2 * torch.pi * 100 * level * time) for level in range(1, 80)]
    numbers, at_once = [], 0
    for seed in range(100):
        sound = babble(voices, 16_000, torch.Generator().manual_seed(seed))
        power = torch.fft.rfft(sound).abs().square() / (16_000**2 / 4)  # 2 for a sine of mean square 1
        heard = power[100:8_000:100]
        torch.testing.assert_close(power.sum(), heard.sum(), rtol=1e-4, atol=0)
        speakers = heard[heard > 0.01]
        if speakers.allclose(torch.full_like(speakers, 2.0), rtol=1e-3):
            numbers.append(len(speakers))
        else:
            at_once += 1  # a voice that was drawn twice is as loud as its two beginnings make it
    assert set(numbers) == set(range(1, MOST_VOICES + 1))
    assert at_once < 20  # 2 of 6 are the same in 17 of 100 draws out of 79, of fewer in less


def test_a_voice_of_a_babble_begins_anywhere_and_goes_on_where_it_is():
    ramp = torch.arange(1, 1_001.0)
    begins = set()
    for seed in range(200):
        sound = babble([ramp], 2_500, torch.Generator().manual_seed(seed)) * ramp.square().mean().sqrt()
        if abs(float(sound.mean()) - 500) > 100:
            continue  # more than one voice
        steps = sound.diff().round().int()
        assert set(steps.tolist()) == {1, -999}
        begins.add(round(float(sound[0])))
    assert len(begins) > 20 and max(begins) - min(begins) > 500


def test_silence_stays_silence():
    rows, _ = laid(ALWAYS, torch.zeros(CLIPS, LENGTH))
    assert not rows.any()


def test_a_clip_of_one_sample_and_a_batch_of_one_are_taken():
    one = torch.ones(1, 1), torch.zeros(1, dtype=torch.long), torch.ones(1, dtype=torch.long)
    rows, sizes = ALWAYS(*one, one[2], torch.Generator().manual_seed(0))
    assert rows.shape == (1, 1) and sizes.tolist() == [1] and bool(rows.isfinite().all())


def test_the_settings_of_a_recipe_reach_the_encoder():
    conformer = {"background_share": 0.25, "background_min_snr_db": 3, "background_max_snr_db": 9}
    recipe = load_recipe("conformer", [f"conformer.{key}={value}" for key, value in conformer.items()])
    assert build_model(recipe, 3).encoder.augmentation.background == Background(0.25, 3.0, 9.0, 9_600)  # 600 ms
    assert (
        build_model(load_recipe("conformer", ["conformer.background_share=0"]), 3).encoder.augmentation.background
        is None
    )


def test_the_encoder_lays_it_behind_what_it_learns_from_alone():
    # One clip of which half is silence: with a background and margins it grows, and its silent half is silent no more.
    off = ["max_time_warp", "max_frequency_warp", "max_masked_bands", "max_masked_ms", "noise_share", "trim_jitter_db"]
    plain = [f"conformer.{key}=0" for key in off] + ["conformer.crop_s=10", "conformer.dropout=0"]
    encoders = {}
    for share in (0, 1):
        encoder = build_model(load_recipe("conformer", [*plain, f"conformer.background_share={share}"]), 3).encoder
        with torch.no_grad():
            waves, lengths = clips(), torch.full((CLIPS,), LENGTH)
            _, learnt = encoder(waves, lengths, torch.Generator().manual_seed(0))
            _, heard = encoder(waves, lengths)
        encoders[share] = learnt.tolist(), heard.tolist()
    assert encoders[0][0] == encoders[0][1] == encoders[1][1]
    longer = [a > b for a, b in zip(encoders[1][0], encoders[1][1], strict=True)]
    assert CLIPS / 2 < sum(longer) < CLIPS  # three of four have a margin on a side


def test_the_same_seed_draws_the_same():
    waves = clips()
    assert torch.equal(laid(ALWAYS, waves)[0], laid(ALWAYS, waves)[0])
    assert not torch.equal(laid(ALWAYS, waves)[0][0], laid(ALWAYS, waves, seed=1)[0][0])
