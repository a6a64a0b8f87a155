import math

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ser_cli.losses import FrameSupConLoss, broadcast_context, frame_supcon_loss, supcon


def typed_out(frames: np.ndarray, classes: list[int], mask: np.ndarray, temperature: float) -> float:
    """Eq. 10, with P(i) and A(i) as lists."""
    features, labels = [], []
    for clip, label, real in zip(frames, classes, mask, strict=True):
        for frame, is_real in zip(clip, real, strict=True):
            if is_real:
                features.append(frame / math.sqrt(sum(v * v for v in frame)))
                labels.append(label)
    total = 0.0
    for i, anchor in enumerate(features):
        others = [k for k in range(len(features)) if k != i]
        positives = [k for k in others if labels[k] == labels[i]]
        if not positives:
            continue
        denominator = sum(math.exp(anchor @ features[k] / temperature) for k in others)
        inner = sum(math.log(math.exp(anchor @ features[j] / temperature) / denominator) for j in positives)
        total += -inner / len(positives)
    return total / len(features)


CLASSES = [1, 0, 1, 2]
MASK = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]], dtype=bool)
"""Four clips; class 2 has a single frame in all, which has no positive."""


def some_frames(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(4, 5, 3))


def loss_of(frames: np.ndarray, temperature: float = 0.1) -> float:
    return frame_supcon_loss(torch.tensor(frames), torch.tensor(CLASSES), torch.tensor(MASK), temperature).item()


@pytest.mark.parametrize("temperature", [0.07, 0.1, 1.0])
@pytest.mark.parametrize("block", [1, 3, 11, 1024])
def test_supcon_is_the_equation_in_blocks_of_any_size(monkeypatch, block, temperature):
    monkeypatch.setattr(supcon, "BLOCK_FRAMES", block)
    frames = some_frames()
    expected = typed_out(frames, CLASSES, MASK, temperature)
    assert loss_of(frames, temperature) == pytest.approx(expected, rel=1e-10)


def test_padding_frames_do_not_enter_supcon():
    frames, other = some_frames(), some_frames()
    other[~MASK] = 1e6
    assert loss_of(other) == loss_of(frames)


def test_supcon_does_not_depend_on_the_scale_of_a_frame():
    frames = some_frames()
    scaled = frames * np.random.default_rng(1).uniform(0.01, 100, size=(4, 5, 1))
    assert loss_of(scaled) == pytest.approx(loss_of(frames), rel=1e-10)


def test_supcon_is_zero_where_no_frame_has_a_positive():
    frames = torch.tensor(some_frames()[:, :1], requires_grad=True)
    loss = frame_supcon_loss(frames, torch.tensor([0, 1, 2, 3]), torch.ones(4, 1, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert frames.grad.abs().max() == 0


def test_supcon_of_a_single_frame_is_zero_and_keeps_its_gradient():
    frames = torch.ones(1, 1, 3, requires_grad=True)
    loss = frame_supcon_loss(frames, torch.tensor([0]), torch.ones(1, 1, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert frames.grad.abs().max() == 0


def test_supcon_of_frames_that_are_all_alike_is_the_log_of_the_number_of_others():
    frames = torch.ones(2, 4, 3, dtype=torch.float64)
    loss = frame_supcon_loss(frames, torch.tensor([0, 1]), torch.ones(2, 4, dtype=torch.bool))
    assert loss.item() == pytest.approx(math.log(7), rel=1e-12)


def test_supcon_of_frames_without_content_is_finite():
    frames = torch.zeros(2, 3, 4, requires_grad=True)
    loss = frame_supcon_loss(frames, torch.tensor([0, 1]), torch.ones(2, 3, dtype=torch.bool))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(5), rel=1e-5)
    assert frames.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_frames_are_contrasted_in_float32(dtype):
    frames = torch.tensor(some_frames()).to(dtype)
    result = frame_supcon_loss(frames, torch.tensor(CLASSES), torch.tensor(MASK))
    assert result.dtype == torch.float32
    expected = typed_out(frames.double().numpy(), CLASSES, MASK, 0.1)
    assert result.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("block", [4, 1024])
def test_the_gradient_of_supcon_is_right(monkeypatch, block):
    monkeypatch.setattr(supcon, "BLOCK_FRAMES", block)
    frames = torch.tensor(some_frames(), requires_grad=True)
    classes, mask = torch.tensor(CLASSES), torch.tensor(MASK)
    assert torch.autograd.gradcheck(lambda x: frame_supcon_loss(x, classes, mask, 0.5), frames)


def test_the_gradient_of_supcon_on_padding_is_zero():
    frames = torch.tensor(some_frames(), requires_grad=True)
    frame_supcon_loss(frames, torch.tensor(CLASSES), torch.tensor(MASK)).backward()
    assert (frames.grad[~torch.tensor(MASK)] == 0).all()
    assert (frames.grad[torch.tensor(MASK)].abs().sum(dim=-1) > 0).all()


def test_context_broadcasting_averages_each_frame_with_the_mean_of_its_real_frames():
    frames = some_frames()
    expected = np.zeros_like(frames)
    for b in range(4):
        real = [frames[b, t] for t in range(5) if MASK[b, t]]
        for t in range(5):
            expected[b, t] = (frames[b, t] + sum(real) / len(real)) / 2
    result = broadcast_context(torch.tensor(frames), torch.tensor(MASK)).numpy()
    np.testing.assert_allclose(result[MASK], expected[MASK], rtol=1e-12)


def test_the_supcon_module_broadcasts_context_and_takes_the_dominant_class():
    frames = some_frames()
    targets = np.array([[0.1, 0.6, 0.3], [0.8, 0.2, 0.0], [0.0, 1.0, 0.0], [0.3, 0.3, 0.4]])
    broadcast = np.zeros_like(frames)
    for b in range(4):
        mean = frames[b][MASK[b]].mean(axis=0)
        broadcast[b] = (frames[b] + mean) / 2
    expected = typed_out(broadcast, CLASSES, MASK, 0.2)
    result = FrameSupConLoss(temperature=0.2)(torch.tensor(frames), torch.tensor(targets), torch.tensor(MASK))
    assert result.item() == pytest.approx(expected, rel=1e-10)


class LargestTensor(TorchDispatchMode):
    """Notes the most elements that any tensor holds, backward pass included."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, torch.Tensor):
                self.elements = max(self.elements, value.numel())
        return result


def test_no_tensor_of_supcon_holds_all_pairs_of_frames(monkeypatch):
    monkeypatch.setattr(supcon, "BLOCK_FRAMES", 16)

    def largest_of(total: int) -> int:
        frames = torch.randn(4, total // 4, 8, requires_grad=True, generator=torch.Generator().manual_seed(0))
        with LargestTensor() as largest:
            mask = torch.ones(4, total // 4, dtype=torch.bool)
            frame_supcon_loss(frames, torch.tensor([0, 1, 0, 1]), mask).backward()
        assert frames.grad is not None
        return largest.elements

    with LargestTensor() as naive:
        features = torch.randn(256, 8, requires_grad=True)
        (features @ features.T).logsumexp(dim=1).sum().backward()
    assert naive.elements == 256 * 256
    assert largest_of(256) == 16 * 256
    assert largest_of(1024) == 16 * 1024


def test_what_supcon_keeps_for_the_backward_pass_grows_with_the_frames_and_not_their_square():
    def kept_of(total: int) -> int:
        kept = {}

        def note(tensor):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        frames = torch.randn(2, total // 2, 8, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = frame_supcon_loss(frames, torch.tensor([0, 1]), torch.ones(2, total // 2, dtype=torch.bool))
        assert loss.requires_grad
        return sum(kept.values())

    assert kept_of(1024) < 1024 * 1024
    assert kept_of(1024) <= 2.2 * kept_of(512)
