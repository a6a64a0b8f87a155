import numpy as np
import pytest
import torch

from tests.models.spectra import BANDS, band_of, both_planes, log_mel, tone
from tests.models.tiny import some_clips


@pytest.mark.parametrize("hz", [1000.0, 1800.0, 3000.0, 5000.0, 7000.0])
def test_a_tone_peaks_in_the_band_that_holds_it(hz):
    spectrogram, _ = log_mel([tone(hz)])
    peak = int(spectrogram[0, 5:-5].mean(dim=0).argmax())
    assert abs(peak - band_of(hz)) <= 1


def test_the_second_plane_takes_the_mean_of_each_band_away():
    planes, frames = both_planes(some_clips())
    for clip, count in zip(planes[:, 1], frames.tolist(), strict=True):
        real = clip[:count].double().numpy()
        np.testing.assert_allclose(real.mean(axis=0), 0, atol=1e-4)
        assert real.var() == pytest.approx(1, abs=1e-3)
        assert not clip[count:].any()


def test_the_second_plane_ignores_a_filter_that_colours_the_whole_clip():
    (clip,) = some_clips((8000,))
    # A first-order difference: a high-pass that changes every band's level by a factor of its own.
    coloured = torch.cat([clip[:1], clip[1:] - 0.5 * clip[:-1]])
    plain, filtered = both_planes([clip])[0][0], both_planes([coloured])[0][0]
    change_of = [float((plain[plane, 3:-3] - filtered[plane, 3:-3]).square().mean().sqrt()) for plane in (0, 1)]
    assert change_of[1] < 0.25 * change_of[0]


@pytest.mark.parametrize("samples", [400, 1000, 1001, 5999, 8000])
def test_there_is_a_frame_at_every_hop(samples):
    spectrogram, frames = log_mel([tone(500, samples)])
    assert frames.tolist() == [samples // 200 + 1]
    assert spectrogram.shape == (1, samples // 200 + 1, BANDS)


@pytest.mark.parametrize("factor", [0.1, 10.0, 1e-3])
def test_the_recording_level_does_not_change_the_spectrogram(factor):
    clips = some_clips()
    plain, _ = log_mel(clips)
    scaled, _ = log_mel([factor * clip for clip in clips])
    torch.testing.assert_close(scaled, plain, rtol=0, atol=1e-3)
    assert plain.std() > 0.5


def test_a_padded_clip_gives_what_it_gives_alone_and_padding_is_zero():
    clips = some_clips()
    together, frames = log_mel(clips)
    for row, clip in enumerate(clips):
        alone, count = log_mel([clip])
        assert count[0] == frames[row]
        torch.testing.assert_close(together[row, : frames[row]], alone[0], rtol=0, atol=1e-4)
        assert not together[row, frames[row] :].any()


def test_each_clip_has_zero_mean_and_unit_variance_over_its_real_frames():
    spectrogram, frames = log_mel(some_clips())
    for row, count in enumerate(frames.tolist()):
        real = spectrogram[row, :count].double().numpy()
        assert real.mean() == pytest.approx(0, abs=1e-4)
        assert real.var() == pytest.approx(1, abs=1e-3)
