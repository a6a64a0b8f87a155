"""Mixed styles, against the equation typed out clip by clip and band by band."""

import numpy as np
import pytest
import torch

from ser_cli.models.mixstyle import mix_styles
from tests.models.tiny import tiny_augmentation

FRAMES = (40, 25, 33, 1, 40)
BANDS = 12
HALFWAY = 1e6
"""An alpha with which lambda is 0.5 to three digits."""


def some_spectrograms() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    frames = torch.tensor(FRAMES)
    levels, ranges = torch.randn(2, len(FRAMES), 2, 1, BANDS, generator=generator)
    values = levels + (0.3 + ranges.abs()) * torch.randn(len(FRAMES), 2, max(FRAMES), BANDS, generator=generator)
    return values * (torch.arange(max(FRAMES)) < frames[:, None])[:, None, :, None], frames


def mixed(share: float, alpha: float, seed: int = 0) -> np.ndarray:
    spectrograms, frames = some_spectrograms()
    before = spectrograms.clone()
    generator = torch.Generator().manual_seed(seed)
    result = mix_styles(spectrograms, frames, generator, share=share, alpha=alpha)
    assert torch.equal(spectrograms, before)
    return result.double().numpy()


def style(clip: np.ndarray, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (planes, bands) of a clip's own frames."""
    return clip[:, :frames].mean(axis=1), np.sqrt(clip[:, :frames].var(axis=1) + 1e-4)


def expected(row: int, other: int, own: float) -> np.ndarray:
    """(planes, frames, bands): the equation of the paper."""
    clips = some_spectrograms()[0].double().numpy()
    (mu, sigma), (mu_other, sigma_other) = style(clips[row], FRAMES[row]), style(clips[other], FRAMES[other])
    mu_mix = own * mu + (1 - own) * mu_other
    sigma_mix = own * sigma + (1 - own) * sigma_other
    normed = (clips[row, :, : FRAMES[row]] - mu[:, None]) / sigma[:, None]
    return sigma_mix[:, None] * normed + mu_mix[:, None]


def partner_of(result: np.ndarray, row: int, own: float) -> list[int]:
    """Whose style a clip was given; itself where its own is left."""
    count = FRAMES[row]
    return [k for k in range(len(FRAMES)) if np.allclose(result[row, :, :count], expected(row, k, own), atol=5e-3)]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_halfway_every_clip_has_the_mean_of_two_styles_and_each_clip_gives_its_own_once(seed):
    result = mixed(1, HALFWAY, seed)
    partners = [partner_of(result, row, 0.5) for row in range(len(FRAMES))]
    assert sorted(partner for found in partners for partner in found) == list(range(len(FRAMES)))


def test_a_small_alpha_keeps_a_style_or_takes_another_one_whole():
    kept = taken = 0
    for seed in range(40):
        result = mixed(1, 1e-3, seed)
        for row in range(len(FRAMES)):
            (partner,) = partner_of(result, row, 0.0)
            kept += partner == row
            taken += partner != row
    # Lambda is 0 for one half; of five clips one is its own partner on average.
    assert taken / (kept + taken) == pytest.approx(0.4, abs=0.1)


def test_lambda_follows_the_beta_distribution():
    drawn = []
    spectrograms = torch.zeros(2, 1, 3, 1)
    spectrograms[1] = 1  # the mean of the first clip is then 1 - lambda, unless it is its own partner
    for seed in range(2000):
        generator = torch.Generator().manual_seed(seed)
        result = mix_styles(spectrograms, torch.tensor([3, 3]), generator, share=1, alpha=0.4)
        own = 1 - float(result[0, 0, 0, 0])
        drawn += [] if float(result[1, 0, 0, 0]) == 1 else [own]
    assert np.mean(drawn) == pytest.approx(0.5, abs=0.05)
    assert np.var(drawn) == pytest.approx(1 / (4 * (2 * 0.4 + 1)), abs=0.02)


def test_the_share_says_how_many_clips_are_changed_and_the_others_stay_as_they_are():
    clips = some_spectrograms()[0].double().numpy()
    assert np.allclose(mixed(0, 0.4), clips, atol=1e-6)
    changed = [not np.allclose(mixed(0.5, HALFWAY, seed)[row], clips[row]) for seed in range(100) for row in range(5)]
    assert np.mean(changed) == pytest.approx(0.5 * 0.8, abs=0.07)  # one in five is its own partner


def test_padding_stays_zero_and_enters_no_style():
    spectrograms, frames = some_spectrograms()
    padded = torch.nn.functional.pad(spectrograms, (0, 0, 0, 19))
    padded[:, :, max(FRAMES) :] = 7.0
    alone, beside = (
        mix_styles(values, frames, torch.Generator().manual_seed(3), share=1, alpha=0.4)
        for values in (spectrograms, padded)
    )
    torch.testing.assert_close(beside[:, :, : max(FRAMES)], alone)
    for row, count in enumerate(FRAMES):
        assert not beside[row, :, count:].any()


def test_a_seed_gives_the_same_styles_again():
    assert np.array_equal(mixed(0.5, 0.4, 1), mixed(0.5, 0.4, 1))
    assert not np.array_equal(mixed(0.5, 0.4, 1), mixed(0.5, 0.4, 2))


def test_a_batch_of_one_clip_and_still_bands_stay_as_they_are():
    still = torch.full((1, 2, 4, 3), 2.0)
    result = mix_styles(still, torch.tensor([4]), torch.Generator().manual_seed(0), share=1, alpha=0.4)
    torch.testing.assert_close(result, still)


def test_the_augmentation_mixes_styles_of_what_is_kept_and_masks_lie_over_them():
    spectrograms, frames = some_spectrograms()
    one = tiny_augmentation(mixstyle_share=1.0, mixstyle_alpha=HALFWAY)
    result, kept = one.in_other_voices(spectrograms, frames, torch.Generator().manual_seed(0))
    assert torch.equal(kept, frames)
    assert not torch.allclose(result, spectrograms, atol=0.1)
    masked = tiny_augmentation(mixstyle_share=1.0, max_masked_bands=6)
    zeros = (masked.in_other_voices(spectrograms, frames, torch.Generator().manual_seed(0))[0][0] == 0).all(dim=(0, 1))
    assert zeros.any()
