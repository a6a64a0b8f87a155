"""What is laid behind training clips, measured in what comes out."""

from dataclasses import replace

import pytest
import torch
from scipy.stats import kstest, kurtosis

from ser_cli.models.background import MOST_VOICES, Background, babble
from ser_cli.models.endpoints import cut_to_spans

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


def test_silence_gets_no_background_that_is_heard_and_stays_finite():
    rows, _ = laid(ALWAYS, torch.zeros(CLIPS, LENGTH))
    assert float(rows.abs().max()) < 1e-5


def test_the_same_seed_draws_the_same():
    waves = clips()
    assert torch.equal(laid(ALWAYS, waves)[0], laid(ALWAYS, waves)[0])
    assert not torch.equal(laid(ALWAYS, waves)[0][0], laid(ALWAYS, waves, seed=1)[0][0])
