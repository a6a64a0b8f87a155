import pytest
import torch

from ser_cli.models.classifier import EmotionClassifier
from ser_cli.models.speaker_normalization import MOMENTUM, SpeakerNormalization
from tests.models.tiny import padded, some_clips, tiny_conformer

EMBEDDINGS = torch.tensor([[1.0, 2.0], [3.0, 0.0], [5.0, 4.0], [-2.0, 7.0]])
SPEAKERS = torch.tensor([7, 3, 7, 9])
CENTER = torch.tensor([0.5, -1.0])


@pytest.fixture
def normalization() -> SpeakerNormalization:
    module = SpeakerNormalization(2)
    module.center.copy_(CENTER)
    return module.eval()


def test_what_is_subtracted_is_the_speakers_mean_with_the_center_counted_as_one_more_clip(normalization):
    told = normalization.offset(torch.tensor([[6.0, 6.0], [3.0, 0.0]]), torch.tensor([2, 1]))
    torch.testing.assert_close(told, torch.tensor([[(6 + 0.5) / 3, (6 - 1) / 3], [(3 + 0.5) / 2, (0 - 1) / 2]]))


def test_clips_of_a_batch_are_normalised_with_those_of_their_own_speaker(normalization):
    found = EMBEDDINGS - normalization.offset_in_batch(EMBEDDINGS, SPEAKERS)
    shared = (EMBEDDINGS[0] + EMBEDDINGS[2] + CENTER) / 3
    expected = [EMBEDDINGS[0] - shared, None, EMBEDDINGS[2] - shared, None]
    for row, value in enumerate(expected):
        if value is None:  # of a single clip half of its distance to the center is left
            value = (EMBEDDINGS[row] - CENTER) / 2  # noqa: PLW2901
        torch.testing.assert_close(found[row], value)


def test_many_clips_hear_against_their_own_mean_whatever_the_center(normalization):
    many = torch.randn(5000, 2, generator=torch.Generator().manual_seed(0)) + torch.tensor([30.0, -4.0])
    offset = normalization.offset_in_batch(many, torch.zeros(5000, dtype=torch.long))
    torch.testing.assert_close(offset[0], many.mean(dim=0), atol=0.01, rtol=0)


def test_the_gradient_flows_through_the_means_of_the_batch(normalization):
    embeddings = EMBEDDINGS.clone().requires_grad_()
    first = (embeddings - normalization.offset_in_batch(embeddings, SPEAKERS))[0, 0]
    first.backward()
    # f'_1 = f_1 - (f_1 + f_3 + c) / 3 in each feature; other speakers and features have no part in it.
    expected = torch.tensor([[1 - 1 / 3, 0.0], [0.0, 0.0], [-1 / 3, 0.0], [0.0, 0.0]])
    torch.testing.assert_close(embeddings.grad, expected)


def test_the_center_goes_towards_the_mean_over_speakers_in_training_alone(normalization):
    normalization.offset_in_batch(EMBEDDINGS, SPEAKERS)
    torch.testing.assert_close(normalization.center, CENTER)
    normalization.train().offset_in_batch(EMBEDDINGS, SPEAKERS)
    over_speakers = (torch.tensor([3.0, 3.0]) + EMBEDDINGS[1] + EMBEDDINGS[3]) / 3  # each speaker counts once
    torch.testing.assert_close(normalization.center, CENTER + MOMENTUM * (over_speakers - CENTER))
    assert not normalization.center.requires_grad


@pytest.fixture
def model() -> EmotionClassifier:
    torch.manual_seed(3)
    model = EmotionClassifier(tiny_conformer(), 3, pooling_heads=4, projection_dim=8, normalize_by_speaker=True)
    model.speakers.center.normal_()
    return model.eval()


def test_a_trained_model_classifies_what_is_left_of_an_embedding(model):
    waveforms, lengths = padded(some_clips())
    offsets = torch.randn(3, 16, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        left = model.embed(waveforms, lengths) - offsets
        output = model(waveforms, lengths, offsets=offsets)
        expected = left @ model.head.classifier.weight.T + model.head.classifier.bias
    torch.testing.assert_close(output.embedding, left)
    torch.testing.assert_close(output.logits, expected)


def test_a_model_that_normalises_by_speaker_asks_for_the_speakers(model):
    waveforms, lengths = padded(some_clips())
    with pytest.raises(ValueError, match="was not told the speakers of the clips"):
        model(waveforms, lengths)


def test_a_voice_that_is_the_same_in_all_clips_changes_nothing_but_what_the_center_leaves_of_it(model):
    waveforms, lengths = padded(some_clips())
    with torch.inference_mode():
        plain = model.embed(waveforms, lengths)
        voice = torch.randn(16, generator=torch.Generator().manual_seed(2))
        speakers = torch.zeros(3, dtype=torch.long)
        before = plain - model.speakers.offset_in_batch(plain, speakers)
        after = plain + voice - model.speakers.offset_in_batch(plain + voice, speakers)
    torch.testing.assert_close(after - before, (voice / 4).expand(3, -1))


def test_the_second_classifier_reads_embeddings_against_those_of_their_speaker_and_only_where_speakers_are_told():
    model = EmotionClassifier(tiny_conformer(), 3, pooling_heads=4, speaker_relative=True).eval()
    waveforms, lengths = padded(some_clips())
    speakers = torch.tensor([4, 1, 4])
    with torch.no_grad():
        model.relative.speakers.center.normal_()
        found = model(waveforms, lengths, speakers=speakers)
        plain = model(waveforms, lengths)
    center, embedding = model.relative.speakers.center, plain.embedding
    shared = (embedding[0] + embedding[2] + center) / 3
    relative = torch.stack([embedding[0] - shared, (embedding[1] - center) / 2, embedding[2] - shared])
    classifier = model.relative.classifier
    torch.testing.assert_close(found.relative_logits, relative @ classifier.weight.T + classifier.bias)
    assert plain.relative_logits is None
    torch.testing.assert_close(found.logits, plain.logits)  # the tested classifier hears each clip on its own
