import math

import numpy as np
import pytest
import torch

from tests.models.spectra import BANDS, band_of, log_mel, tone
from tests.models.tiny import tiny_augmentation


def change(augmentation, spectrogram, frames, drawn):
    """Augment spectrograms of one plane."""
    changed, kept = augmentation.in_other_voices(spectrogram.unsqueeze(1), frames, drawn)
    return changed.squeeze(1), kept


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_spectrograms(batch: int = 3, frames: tuple[int, ...] = (40, 25, 33)) -> tuple[torch.Tensor, torch.Tensor]:
    counts = torch.tensor(frames[:batch])
    spectrogram = 1 + torch.rand(batch, int(counts.max()), BANDS, generator=generator(9))
    spectrogram *= (torch.arange(spectrogram.shape[1]) < counts[:, None])[:, :, None]
    return spectrogram, counts


def test_an_augmentation_with_everything_off_changes_nothing():
    spectrogram, frames = some_spectrograms()
    changed, kept = change(tiny_augmentation(), spectrogram, frames, generator())
    assert torch.equal(kept, frames)
    torch.testing.assert_close(changed, spectrogram, rtol=0, atol=1e-4)


EVERYTHING = tiny_augmentation(
    max_time_warp=0.3, max_frequency_warp=0.2, crop_frames=28, max_masked_bands=9, max_masked_frames=6
)


def test_an_augmentation_repeats_under_a_seed_and_leaves_its_input():
    spectrogram, frames = some_spectrograms()
    before = spectrogram.clone()
    one, other = (
        change(EVERYTHING, spectrogram, frames, generator(3)),
        change(EVERYTHING, spectrogram, frames, generator(4)),
    )
    again = change(EVERYTHING, spectrogram, frames, generator(3))
    assert torch.equal(one[0], again[0])
    assert torch.equal(one[1], again[1])
    assert one[0].shape != other[0].shape or not torch.equal(one[0], other[0])
    assert torch.equal(spectrogram, before)


def test_a_time_warp_changes_the_number_of_frames_within_its_bounds():
    frames = torch.full((500,), 101)
    _, kept = change(tiny_augmentation(max_time_warp=0.2), torch.ones(500, 101, 2), frames, generator())
    # 100 steps between frames become 100 / rate, and the rate lies in [exp(-0.2), exp(0.2)].
    assert kept.min() >= math.floor(100 * math.exp(-0.2)) + 1
    assert kept.max() <= math.floor(100 * math.exp(0.2)) + 1
    assert kept.min() <= 85
    assert kept.max() >= 118
    assert 95 < kept.double().mean() < 108


def test_a_time_warp_moves_what_happens_in_a_clip_in_proportion():
    ramp = torch.arange(101.0)[None, :, None].expand(40, 101, 2).contiguous()
    warped, kept = change(tiny_augmentation(max_time_warp=0.2), ramp, torch.full((40,), 101), generator())
    for clip, count in zip(warped.numpy(), kept.tolist(), strict=True):
        steps = np.diff(clip[:count, 0])
        assert math.exp(-0.2) - 1e-3 <= steps.min() <= steps.max() <= math.exp(0.2) + 1e-3
        np.testing.assert_allclose(steps, steps[0], atol=1e-3)
        assert clip[0, 0] == pytest.approx(0, abs=1e-3)
        assert 100 - steps[0] - 1e-2 <= clip[count - 1, 0] <= 100 + 1e-3


def test_a_frequency_warp_moves_a_tone_up_and_down_by_the_factor_that_it_draws():
    hz = 2000.0
    spectrogram, frames = log_mel([tone(hz)] * 60)
    warped, kept = change(tiny_augmentation(max_frequency_warp=0.2), spectrogram, frames, generator())
    assert torch.equal(kept, frames)
    peaks = warped[:, 5:-5].mean(dim=1).argmax(dim=1).double()
    lowest, highest = band_of(hz * math.exp(-0.2)), band_of(hz * math.exp(0.2))
    assert lowest - 1 <= peaks.min() < band_of(hz) - 3
    assert band_of(hz) + 3 < peaks.max() <= highest + 1


def test_a_frequency_warp_moves_two_tones_by_the_same_factor_in_hertz():
    low, high = log_mel([tone(1500.0)] * 60)[0], log_mel([tone(3500.0)] * 60)[0]
    frames = torch.full((60,), low.shape[1])
    warp = tiny_augmentation(max_frequency_warp=0.2)
    both = [change(warp, clip, frames, generator(1))[0][:, 5:-5].mean(dim=1).argmax(dim=1) for clip in (low, high)]

    def hz_of(band: float) -> float:
        step = (2595 * math.log10(1 + 8000 / 700) - 2595 * math.log10(1 + 50 / 700)) / (BANDS + 1)
        return 700 * (10 ** ((2595 * math.log10(1 + 50 / 700) + step * (band + 1)) / 2595) - 1)

    factors = np.array([[hz_of(float(b)) / hz for b in bands] for bands, hz in zip(both, (1500, 3500), strict=True)])
    assert factors.max() - factors.min() > 0.25
    np.testing.assert_allclose(factors[0], factors[1], rtol=0.08)


def test_masks_set_stretches_of_frames_and_bands_to_the_mean_which_is_zero():
    count, longest_band, longest_stretch = 300, 8, 6
    ones, frames = torch.ones(count, 40, BANDS), torch.full((count,), 40)
    bands = change(tiny_augmentation(max_masked_bands=longest_band), ones, frames, generator())[0]
    stretches = change(tiny_augmentation(max_masked_frames=longest_stretch), ones, frames, generator())[0]
    masked_bands = (bands == 0).all(dim=1).sum(dim=1)
    masked_frames = (stretches == 0).all(dim=2).sum(dim=1)
    assert (bands == 0).sum() == 40 * masked_bands.sum()  # nothing but whole bands
    assert (stretches == 0).sum() == BANDS * masked_frames.sum()
    assert 2 * (longest_band - 2) <= masked_bands.max() <= 2 * longest_band
    assert 2 * (longest_stretch - 2) <= masked_frames.max() <= 2 * longest_stretch
    # Two masks of half the longest length on average, less where they meet.
    assert masked_bands.double().mean() == pytest.approx(longest_band, rel=0.15)
    assert masked_frames.double().mean() == pytest.approx(longest_stretch, rel=0.15)


def test_a_mask_may_fall_on_any_band():
    ones, frames = torch.ones(500, 10, BANDS), torch.full((500,), 10)
    masked = change(tiny_augmentation(max_masked_bands=8), ones, frames, generator())[0] == 0
    assert masked.all(dim=1).any(dim=0).all()


def test_a_crop_keeps_a_stretch_of_the_longest_length_at_any_place():
    ramp = torch.arange(100.0)[None, :, None].expand(1500, 100, 2).contiguous()
    frames = torch.full((1500,), 100)
    frames[0] = 12
    cropped, kept = change(tiny_augmentation(crop_frames=20), ramp, frames, generator())
    assert cropped.shape == (1500, 20, 2)
    assert kept.tolist() == [12] + [20] * 1499
    starts = cropped[1:, 0, 0].round()
    torch.testing.assert_close(cropped[1:, :, 0], starts[:, None] + torch.arange(20.0), rtol=0, atol=1e-2)
    assert starts.unique().tolist() == list(range(81))
    torch.testing.assert_close(cropped[0, :12, 0], torch.arange(12.0), rtol=0, atol=1e-2)


def test_padding_stays_zero_and_real_frames_stay_free_of_it():
    spectrogram, frames = some_spectrograms()
    for seed in range(20):
        warp = tiny_augmentation(max_time_warp=0.3, max_frequency_warp=0.2)
        changed, kept = change(warp, spectrogram, frames, generator(seed))
        for clip, count in zip(changed, kept.tolist(), strict=True):
            assert not clip[count:].any()
            assert clip[:count].min() > 0.99  # all real values lie in [1, 2)


def test_other_clips_of_a_batch_do_not_influence_a_clip():
    spectrogram, frames = some_spectrograms()
    other = spectrogram.clone()
    longer = torch.nn.functional.pad(other, (0, 0, 0, 17))
    longer[1:] = 5.0
    counts = torch.tensor([40, 57, 57])
    one, kept = change(EVERYTHING, spectrogram, frames, generator(6))
    two, kept_two = change(EVERYTHING, longer, counts, generator(6))
    assert kept[0] == kept_two[0]
    torch.testing.assert_close(one[0, : kept[0]], two[0, : kept[0]], rtol=0, atol=1e-3)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_shortest_clips_survive_every_augmentation(count):
    spectrogram, frames = torch.ones(2, count, BANDS), torch.tensor([count, 1])
    for seed in range(20):
        changed, kept = change(EVERYTHING, spectrogram, frames, generator(seed))
        assert (kept >= 1).all()
        assert changed.shape[1] == kept.max()
        assert changed.isfinite().all()
