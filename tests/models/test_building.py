import shutil
from itertools import product

import pytest
import torch

from ser_cli.checkpoints import load_model, save_model
from ser_cli.losses import LOSS_NAMES, LossWeights, MultiLoss
from ser_cli.models.building import build_model
from ser_cli.models.classifier import EmotionClassifier
from ser_cli.models.layers import FusedEncoder
from ser_cli.models.pooling import POOLINGS, FrameLevelAttention
from ser_cli.recipe import Recipe, load_recipe
from tests.models.tiny import padded, save_tiny_speech_encoder, some_clips, tiny_conformer

SMALL = [
    "conformer.dim=16",
    "conformer.channels=[4, 4]",
    "conformer.mel_bands=16",
    "conformer.feed_forward_dim=16",
    "losses.projection_dim=8",
    "pooling.heads=4",
    "pooling.attention_dim=6",
]


def small_recipe(*overrides: str) -> Recipe:
    return load_recipe("conformer", [*SMALL, *overrides])


@pytest.mark.parametrize("pooling", ["flam", "mean", "max"])
def test_a_seed_draws_pooling_classifier_and_projections_in_this_order(pooling):
    # What was measured hangs on these draws.
    encoder = tiny_conformer()
    torch.manual_seed(7)
    model = EmotionClassifier(encoder, 5, pooling=pooling, pooling_heads=4, projection_dim=8)
    torch.manual_seed(7)
    pooled = FrameLevelAttention(16, 4) if pooling == "flam" else torch.nn.Identity()
    parts = {
        "pooling": pooled,
        "head.classifier": torch.nn.Linear(16, 5),
        "projection": torch.nn.Linear(16, 8),
        "frame_projection": torch.nn.Linear(16, 8),
    }
    expected = {f"{part}.{name}": value for part, m in parts.items() for name, value in m.state_dict().items()}
    found = {name: value for name, value in model.state_dict().items() if not name.startswith("encoder.")}
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_pooling_learns_from_every_loss(pooling):
    torch.manual_seed(0)
    model = build_model(small_recipe(f"pooling.name={pooling}"), 3)
    targets = torch.tensor([[0.8, 0.2, 0.0], [0.0, 1.0, 0.0], [0.9, 0.0, 0.1]])
    for name in LOSS_NAMES:
        losses = MultiLoss(3, LossWeights(**{name: 1.0}), center_dim=8)
        model.zero_grad()
        speakers = torch.tensor([0, 1, 0])
        output = model.train()(*padded(some_clips()), torch.Generator().manual_seed(0), speakers=speakers)
        losses.total(losses.each(output, targets)).backward()
        learnt = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None), name
        assert "encoder.projection.weight" in learnt, name
        # SupCon works on frames, which `flam` alone changes before it pools them.
        if any(True for _ in model.pooling.parameters()) and (name != "supcon" or pooling == "flam"):
            assert any(n.startswith("pooling.") for n in learnt), name


@pytest.mark.parametrize(
    ("layers", "fusion"), [pair for pair in product((0, 2), ("last", "weighted_sum")) if pair != (0, "last")]
)
def test_a_model_of_chosen_layers_is_stored_and_loaded_without_the_encoders_folder(layers, fusion, tmp_path):
    folder = save_tiny_speech_encoder(tmp_path / "encoder", "hubert", num_hidden_layers=3)
    recipe = small_recipe(
        f"encoder={{name = '{folder}', layers = {layers}, fusion = '{fusion}'}}", "pooling.name=attentive_statistics"
    )
    model = build_model(recipe, 3).eval()
    assert isinstance(model.encoder, FusedEncoder) == (fusion == "weighted_sum")
    if fusion == "weighted_sum":
        with torch.no_grad():
            model.encoder.fusion.logits.copy_(torch.linspace(0, 1, (layers or 3) + 1))
    save_model(tmp_path / "model", model, model.state_dict(), ("angry", "happy", "sad"), recipe)
    shutil.rmtree(folder)
    with torch.inference_mode():
        expected = model(*padded(some_clips())).logits
        found = load_model(tmp_path / "model").model(*padded(some_clips())).logits
    assert torch.equal(found, expected)
    assert (expected[0] - expected[1]).abs().max() > 1e-4


def test_a_batch_of_one_frame_is_learnt_with_the_stored_statistics():
    """A clip of 25 ms alone in a batch has one frame at the end of the encoder: no mean and variance of its own."""
    model = EmotionClassifier(tiny_conformer(), 3, pooling_heads=4, projection_dim=8).train()
    waveforms = torch.randn(1, 400, generator=torch.Generator().manual_seed(0))
    output = model(waveforms, torch.tensor([400]), torch.Generator().manual_seed(0))
    output.logits.sum().backward()
    assert torch.isfinite(output.logits).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
