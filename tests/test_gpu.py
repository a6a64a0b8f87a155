"""What needs a GPU: python -m pytest -m gpu."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ser_cli.models import wavlm_attention
from ser_cli.models.attention_dropout import AttentionDropout
from ser_cli.models.blocked_attention import attend_in_blocks
from tests.benchmarks.attention import measure_layer
from tests.conftest import TINY

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_training_on_a_gpu_ends_in_scores(tones, precision):
    # A process of its own: accelerate keeps one device and precision per process.
    command = [sys.executable, "-m", "ser_cli", "train", "--manifest", tones, "--folds", "2", *TINY]
    command += ["--device", "cuda", "--set", f"training.precision={precision}", "--output", "run"]
    result = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert json.loads(Path("run/environment.json").read_text())["device"] == "cuda"
    assert len(json.loads(Path("run/scores.json").read_text())["folds"]) == 2
    with Path("run/fold-1/history.csv").open() as file:
        assert all(float(row["supcon"]) > 0 for row in csv.DictReader(file))


def attention_inputs(batch: int, frames: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """Query, key, value, gate and table of four heads."""
    torch.manual_seed(frames)
    shapes = [(batch, 4, frames, 64)] * 3 + [(batch, 4, frames), (4, 2 * frames - 1)]
    kinds = [dtype] * 3 + [torch.float32] * 2
    return [torch.randn(s, device="cuda", dtype=k).requires_grad_() for s, k in zip(shapes, kinds, strict=True)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("share", [0.0, 0.1])
def test_compiled_flex_attention_gives_what_blocks_give_at_any_length(dtype, share):
    device = torch.device("cuda", torch.cuda.current_device())
    assert wavlm_attention._flex_is_usable(device, dtype, 4, 64, share > 0)
    for batch, frames, masked in ((2, 749, True), (3, 96, True), (1, 333, False), (4, 1501, True)):
        tensors = attention_inputs(batch, frames, dtype)
        valid = torch.arange(frames, device=device) < frames - 31 * torch.arange(batch, device=device).unsqueeze(1)
        dropout = AttentionDropout.draw(share, batch, 4, frames, device) if share else None
        results = []
        for work in (wavlm_attention.attend, attend_in_blocks):
            output = work(*tensors, valid if masked else None, dropout)
            weights = torch.linspace(-1, 1, output.numel(), device=device).view_as(output)
            results.append([output, *torch.autograd.grad((output.float() * weights).sum(), tensors)])
        tolerance = 1e-4 if dtype == torch.float32 else 0.03
        for one, other in zip(*results, strict=True):
            assert (one - other).abs().max() <= tolerance * other.abs().max().clamp(min=1), (batch, frames)


def test_flex_attention_is_used_where_the_first_batch_is_one_of_evaluation():
    wavlm_attention._flex_is_usable.cache_clear()
    tensors = [tensor.detach() for tensor in attention_inputs(2, 200, torch.bfloat16)]
    with torch.inference_mode():
        wavlm_attention.attend(*tensors)
    assert wavlm_attention._flex_is_usable(tensors[0].device, torch.bfloat16, 4, 64, False)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_attention_needs_a_quarter_of_the_memory_of_transformers_on_a_gpu(dropout):
    ours, library = (measure_layer(whose, "cuda", 8, 15, dropout) for whose in ("ours", "library"))
    assert ours["attention_mb"] <= library["attention_mb"] / 4
