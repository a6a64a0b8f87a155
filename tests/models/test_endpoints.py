"""Where clips begin and end, against signals whose beginning and end are known."""

import pytest
import torch

from ser_cli.models.endpoints import LEAST_RANGE_DB, MARGIN_BLOCKS, STEPS, cut_to_spans, sounding_spans
from ser_cli.models.features import LogMel

BLOCK = 256
BEFORE, SOUND, AFTER = 40 * BLOCK, 20 * BLOCK, 30 * BLOCK
STEP = BLOCK // STEPS
MARGIN = MARGIN_BLOCKS * BLOCK + BLOCK - STEP
"""Before the first block that is loud enough, which reaches into the tone by no more than a step."""
LIMIT_DB = 40.0


def tone(samples: int = SOUND) -> torch.Tensor:
    return 0.1 * torch.sin(2 * torch.pi * 440 * torch.arange(samples) / 16_000)


def between_zeros(before: int = BEFORE, after: int = AFTER) -> torch.Tensor:
    return torch.cat([torch.zeros(before), tone(), torch.zeros(after)])


def span_of(wave: torch.Tensor, limit_db: float = LIMIT_DB, over_noise_db: float = 0.0) -> tuple[int, int]:
    limits = torch.tensor([limit_db])
    start, samples = sounding_spans(wave[None], torch.tensor([len(wave)]), BLOCK, limits, over_noise_db)
    return int(start), int(samples)


def noise(samples: int, below_tone_db: float) -> torch.Tensor:
    """White noise whose power lies so far below that of the tone."""
    power = float(tone().square().mean()) * 10 ** (-below_tone_db / 10)
    drawn = torch.randn(samples, generator=torch.Generator().manual_seed(0))
    return drawn * (power / drawn.square().mean()).sqrt()


def test_a_tone_between_zeros_is_kept_with_its_margin():
    assert span_of(between_zeros()) == (BEFORE - MARGIN, SOUND + 2 * MARGIN)


@pytest.mark.parametrize("gain_db", [-10.0, 10.0])
def test_a_louder_or_softer_copy_has_the_same_span(gain_db):
    assert span_of(10 ** (gain_db / 20) * between_zeros()) == span_of(between_zeros())


@pytest.mark.parametrize(("before", "after"), [(BEFORE + 16 * BLOCK, AFTER), (BEFORE, AFTER + 999), (5 * BLOCK, 3000)])
def test_more_or_less_silence_leaves_the_same_samples(before, after):
    waves = [between_zeros(), between_zeros(before, after)]
    kept = []
    for wave in waves:
        start, samples = span_of(wave)
        kept.append(cut_to_spans(wave[None], torch.tensor([start]), torch.tensor([samples]))[0])
    torch.testing.assert_close(*kept, rtol=0, atol=0)


def test_silence_that_does_not_fill_blocks_shifts_what_is_kept_by_steps_of_a_sixteenth():
    for silence in range(BEFORE, BEFORE + BLOCK, 40):
        start, samples = span_of(between_zeros(silence))
        assert silence - MARGIN - STEP <= start <= silence - MARGIN + STEP
        assert SOUND + 2 * MARGIN - 2 * STEP <= samples <= SOUND + 2 * MARGIN + 2 * STEP


def test_sound_up_to_both_ends_is_kept_whole():
    assert span_of(tone()) == (0, SOUND)


def test_all_zeros_are_kept_whole():
    assert span_of(torch.zeros(5000)) == (0, 5000)


def test_a_clip_shorter_than_a_block_is_kept_whole():
    assert span_of(tone(100)) == (0, 100)


@pytest.mark.parametrize(("below_tone_db", "is_cut"), [(60.0, True), (20.0, False)])
def test_a_noise_floor_is_cut_where_it_lies_below_the_limit(below_tone_db, is_cut):
    wave = between_zeros()
    start, samples = span_of(wave + noise(len(wave), below_tone_db))
    assert (start, samples) == ((BEFORE - MARGIN, SOUND + 2 * MARGIN) if is_cut else (0, len(wave)))


@pytest.mark.parametrize("below_tone_db", [12.0, 15.0, 21.0, 39.0, 60.0])
def test_steady_noise_is_cut_however_loud_up_to_18_db_under_the_tone(below_tone_db):
    wave = between_zeros()
    start, samples = span_of(wave + noise(len(wave), below_tone_db), over_noise_db=6.0)
    if below_tone_db < LEAST_RANGE_DB - 2:  # the loudest of 90 blocks of noise is up to 2 dB over their mean
        assert (start, samples) == (0, len(wave))
    else:
        # Where noise and a little of the tone are 6 dB over the noise, or 40 dB under the tone.
        assert BEFORE - MARGIN <= start <= BEFORE - MARGIN + 10 * STEP
        assert BEFORE + SOUND + MARGIN - 10 * STEP <= start + samples <= BEFORE + SOUND + MARGIN


def test_a_clip_that_is_as_loud_all_along_is_no_noise():
    assert span_of(tone(3 * 16_000), over_noise_db=6.0) == (0, 3 * 16_000)
    assert span_of(noise(3 * 16_000, 0.0), over_noise_db=6.0) == (0, 3 * 16_000)


def test_digital_silence_around_a_noisy_recording_hides_its_noise():
    # The quietest tenth is then no noise at all, and what is heard begins where the recording does.
    recording = between_zeros()
    recording = recording + noise(len(recording), 25.0)
    padded = torch.cat([torch.zeros(BEFORE), recording, torch.zeros(AFTER)])
    start, samples = span_of(padded, over_noise_db=6.0)
    assert abs(start - (BEFORE - MARGIN)) <= 2 * STEP
    assert abs(start + samples - (BEFORE + len(recording) + MARGIN)) <= 2 * STEP


def test_silence_within_a_clip_stays():
    wave = torch.cat([torch.zeros(BEFORE), tone(), torch.zeros(50 * BLOCK), tone(), torch.zeros(AFTER)])
    assert span_of(wave) == (BEFORE - MARGIN, 2 * SOUND + 50 * BLOCK + 2 * MARGIN)


@pytest.mark.parametrize("over_noise_db", [0.0, 6.0])
def test_clips_of_a_padded_batch_have_the_spans_that_they_have_alone(over_noise_db):
    noisy = between_zeros()
    waves = [between_zeros(80 * BLOCK), tone(3000), noisy + noise(len(noisy), 25.0), between_zeros(10 * BLOCK, 77)]
    batch = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    lengths = torch.tensor([len(wave) for wave in waves])
    start, samples = sounding_spans(batch, lengths, BLOCK, torch.full((4,), LIMIT_DB), over_noise_db)
    alone = [span_of(wave, over_noise_db=over_noise_db) for wave in waves]
    assert list(zip(start.tolist(), samples.tolist(), strict=True)) == alone
    assert (alone[2] == (0, len(noisy))) == (over_noise_db == 0)
    kept = cut_to_spans(batch, start, samples)
    assert kept.shape == (4, int(samples.max()))
    for row, (wave, (first, count)) in enumerate(zip(waves, alone, strict=True)):
        torch.testing.assert_close(kept[row, :count], wave[first : first + count], rtol=0, atol=0)
        assert not kept[row, count:].any()


def test_the_spectrogram_of_a_clip_does_not_change_with_silence_around_it():
    front = LogMel(16, 16.0, 40.0, trim_db=LIMIT_DB)
    assert front.hop == BLOCK
    both = []
    for wave in (between_zeros(), between_zeros(BEFORE + 32 * BLOCK, AFTER + 500)):
        both.append(front(wave[None], torch.tensor([len(wave)])))
    torch.testing.assert_close(both[0][0], both[1][0])
    assert both[0][1].tolist() == both[1][1].tolist() == [(SOUND + 2 * MARGIN) // BLOCK + 1]


def test_without_a_limit_clips_are_heard_whole():
    wave = between_zeros()
    front = LogMel(16, 16.0, 40.0, trim_db=0.0)
    start, samples = front.spans(wave[None], torch.tensor([len(wave)]))
    assert (start.tolist(), samples.tolist()) == ([0], [len(wave)])
