import pytest
import torch

from ser_cli.losses import LossWeights, MultiLoss
from ser_cli.models.pooling import POOLINGS
from tests.models.tiny import padded, save_tiny_speech_encoder, some_clips, tiny_classifier, tiny_conformer


def encoder_named(name: str, folder):
    if name == "conformer":
        return tiny_conformer()
    from ser_cli.models.pretrained import load_pretrained

    kind, _, normalize = name.partition("-")
    return load_pretrained(str(save_tiny_speech_encoder(folder, kind, normalize=normalize == "normalized")))


def assert_a_padded_batch_gives_what_its_clips_give_alone(model, clips, tolerance: float) -> None:
    model.eval()
    with torch.inference_mode():
        together = model(*padded(clips))
        assert together.frame_mask.all(dim=1).tolist() == [len(c) == max(map(len, clips)) for c in clips]
        for row, clip in enumerate(clips):
            alone = model(*padded([clip]))
            frames = alone.frame_mask.shape[1]
            assert alone.frame_mask.all()
            assert together.frame_mask[row].sum() == frames
            for name in ("logits", "embedding", "projection"):
                torch.testing.assert_close(
                    getattr(together, name)[row], getattr(alone, name)[0], rtol=0, atol=tolerance
                )
            for name in ("attention", "projected_frames"):
                torch.testing.assert_close(
                    getattr(together, name)[row, :frames], getattr(alone, name)[0], rtol=0, atol=tolerance
                )
        # The clips are told apart at all: equal outputs would prove nothing.
        spread = (together.logits[:, None] - together.logits[None]).abs().amax(dim=-1)
        assert spread[~torch.eye(len(clips), dtype=torch.bool)].min() > 100 * tolerance


@pytest.mark.parametrize(
    "name",
    ["conformer"] + [f"{k}-{n}" for k in ("wavlm", "hubert", "wav2vec2") for n in ("normalized", "raw")],
)
def test_a_padded_batch_gives_what_its_clips_give_alone(name, tmp_path):
    model = tiny_classifier(encoder_named(name, tmp_path / name))
    assert model.encoder.exact_under_padding
    assert_a_padded_batch_gives_what_its_clips_give_alone(model, some_clips(), 2e-5)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_pooling_is_exact_under_padding(pooling):
    model = tiny_classifier(tiny_conformer(), pooling)
    assert_a_padded_batch_gives_what_its_clips_give_alone(model, some_clips(), 2e-5)


def test_a_short_clip_beside_a_long_one_gives_what_it_gives_alone():
    model = tiny_classifier(tiny_conformer())
    assert_a_padded_batch_gives_what_its_clips_give_alone(model, some_clips((400, 32_000)), 5e-5)


def test_shapes_are_what_the_output_says():
    model = tiny_classifier(tiny_conformer())
    output = model(*padded(some_clips()))
    frames = output.frame_mask.shape[1]
    assert output.logits.shape == (3, 3)
    assert output.embedding.shape == (3, 16)
    assert output.projection.shape == (3, 8)
    assert output.projected_frames.shape == (3, frames, 8)
    assert output.attention.shape == (3, frames)


def test_every_parameter_learns_from_the_four_losses():
    model = tiny_classifier(tiny_conformer()).train()
    losses = MultiLoss(3, LossWeights(1, 1, 1, 1), center_dim=8)
    output = model(*padded(some_clips()), torch.Generator().manual_seed(0))
    targets = torch.tensor([[0.8, 0.2, 0.0], [0.0, 1.0, 0.0], [0.9, 0.0, 0.1]])
    losses.total(losses.each(output, targets)).backward()
    for name, parameter in [*model.named_parameters(), *losses.named_parameters()]:
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_a_generator_augments_the_features_and_its_seed_repeats_them():
    model = tiny_classifier(tiny_conformer()).eval()
    batch = padded(some_clips())
    with torch.inference_mode():
        one, two, other = (model(*batch, torch.Generator().manual_seed(seed)).logits for seed in (0, 0, 1))
        plain = model(*batch).logits
    assert torch.equal(one, two)
    assert (one - other).abs().max() > 1e-4
    assert (one - plain).abs().max() > 1e-4


def strange_clips() -> dict[str, torch.Tensor]:
    time = torch.arange(8000)
    generator = torch.Generator().manual_seed(0)
    return {
        "almost silent": 1e-30 * torch.randn(8000, generator=generator),
        "all zeros": torch.zeros(8000),
        "constant": torch.full((8000,), 0.5),
        "offset": 0.9 + 0.01 * torch.sin(time * 0.1),
        "full-scale square": torch.where(time // 40 % 2 == 0, 1.0, -1.0),
        "louder than full scale": 1e3 * torch.randn(8000, generator=generator),
        "shortest": 0.1 * torch.randn(400, generator=generator),
        "one click": torch.nn.functional.one_hot(torch.tensor(4000), 8000).float(),
    }


@pytest.mark.parametrize("kind", ["conformer", "wavlm-normalized"])
@pytest.mark.parametrize("name", strange_clips())
def test_strange_clips_give_finite_outputs_and_gradients(name, kind, tmp_path):
    model = tiny_classifier(encoder_named(kind, tmp_path / "encoder"))
    losses = MultiLoss(3, LossWeights(1, 1, 1, 1), center_dim=8)
    with torch.inference_mode():
        assert model.eval()(*padded([strange_clips()[name]])).logits.isfinite().all()
    generator = torch.Generator().manual_seed(0)
    output = model.train()(*padded([strange_clips()[name], *some_clips()]), generator)
    losses.total(losses.each(output, torch.eye(3)[[0, 1, 2, 0]])).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), parameter_name
