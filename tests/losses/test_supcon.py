import math

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ser_cli.losses import FrameSupConLoss, broadcast_context, frame_supcon_loss, log_denominators


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
        # Both sides of the fraction over the largest term: exp(1000) has no float.
        largest = max(anchor @ features[k] / temperature for k in others)
        denominator = sum(math.exp(anchor @ features[k] / temperature - largest) for k in others)
        inner = sum(anchor @ features[j] / temperature - largest - math.log(denominator) for j in positives)
        total += -inner / len(positives)
    return total / len(features)


CLASSES = [1, 0, 1, 2]
MASK = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]], dtype=bool)
"""Four clips; class 2 has a single frame in all, which has no positive."""


def some_frames(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(4, 5, 3))


def loss_of(frames: np.ndarray, temperature: float = 0.1) -> float:
    return frame_supcon_loss(torch.tensor(frames), torch.tensor(CLASSES), torch.tensor(MASK), temperature).item()


@pytest.mark.parametrize("temperature", [1e-4, 1e-3, 0.07, 0.1, 1.0, 1e4])
@pytest.mark.parametrize("block", [1, 3, 11, 1024])
def test_supcon_is_the_equation_in_blocks_of_any_size(monkeypatch, block, temperature):
    monkeypatch.setattr(log_denominators, "CPU_BLOCK_FRAMES", block)
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


@pytest.mark.parametrize("temperature", [0.5, 1e-3])
@pytest.mark.parametrize("block", [4, 1024])
def test_the_gradient_of_supcon_is_right(monkeypatch, block, temperature):
    monkeypatch.setattr(log_denominators, "CPU_BLOCK_FRAMES", block)
    # At a small temperature the gradient is large and turns quickly, so the frames are scaled with it.
    frames = torch.tensor(some_frames() / temperature, requires_grad=True)
    classes, mask = torch.tensor(CLASSES), torch.tensor(MASK)
    assert torch.autograd.gradcheck(lambda x: frame_supcon_loss(x, classes, mask, temperature), frames)


def direct(frames: torch.Tensor, classes: torch.Tensor, mask: torch.Tensor, temperature: float) -> torch.Tensor:
    """Eq. 10 with the matrix of all similarities."""
    features = torch.nn.functional.normalize(frames[mask], dim=-1)
    labels = classes[:, None].expand(mask.shape)[mask]
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    scores = (features @ features.T / temperature).masked_fill(itself, -torch.inf)
    positive = (labels[:, None] == labels) & ~itself
    log_p = scores - scores.logsumexp(dim=1, keepdim=True)
    sums = torch.where(positive, log_p, 0).sum(dim=1)
    return -(sums / positive.sum(dim=1).clamp_min(1)).mean()


def clustered(clips: int, frames: int, device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Frames in float64 that lie about a direction of their clip's class, of which some are padding."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.arange(clips) % 5
    directions = torch.randn(5, 1, 64, generator=generator, dtype=torch.float64)
    features = directions[classes] + torch.randn(clips, frames, 64, generator=generator, dtype=torch.float64)
    lengths = torch.randint(frames // 2, frames + 1, (clips,), generator=generator)
    mask = torch.arange(frames) < lengths[:, None]
    return features.to(device), classes.to(device), mask.to(device)


def value_and_gradient(loss, frames: torch.Tensor, *rest) -> tuple[torch.Tensor, torch.Tensor]:
    own = frames.clone().requires_grad_()
    value = loss(own, *rest)
    value.backward()
    return value.detach(), own.grad


def assert_close_to_float64(found, expected) -> None:
    """Within 1e-5 of the value, and of the largest gradient and the gradient's length."""
    (value, gradient), (true_value, true_gradient) = found, expected
    difference = gradient.double() - true_gradient
    assert value.item() == pytest.approx(true_value.item(), rel=1e-5)
    assert difference.abs().max() < 1e-5 * true_gradient.abs().max()
    assert difference.norm() < 1e-5 * true_gradient.norm()


@pytest.mark.parametrize("temperature", [0.015, 0.03, 0.07, 0.1, 1.0, 100.0])
def test_supcon_in_float32_is_that_in_float64(monkeypatch, temperature):
    monkeypatch.setattr(log_denominators, "CPU_BLOCK_FRAMES", 200)
    frames, classes, mask = clustered(8, 120)
    expected = value_and_gradient(direct, frames.float().double(), classes, mask, temperature)
    assert_close_to_float64(value_and_gradient(frame_supcon_loss, frames.float(), classes, mask, temperature), expected)


@pytest.mark.gpu
@pytest.mark.parametrize("temperature", [0.015, 0.07, 0.1])
def test_supcon_on_a_gpu_is_that_in_float64_where_tf32_is_allowed(monkeypatch, temperature):
    monkeypatch.setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32")
    frames, classes, mask = clustered(16, 749, "cuda")
    expected = value_and_gradient(direct, frames.float().double(), classes, mask, temperature)
    found = [value_and_gradient(frame_supcon_loss, frames.float(), classes, mask, temperature) for _ in range(2)]
    assert_close_to_float64(found[0], expected)
    assert all(torch.equal(first, second) for first, second in zip(*found, strict=True))


@pytest.mark.gpu
def test_supcon_on_a_gpu_needs_memory_for_blocks_alone():
    def peak_of(clips: int) -> int:
        frames, classes, mask = clustered(clips, 749, "cuda")
        own = frames.float().requires_grad_()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        frame_supcon_loss(own, classes, mask).backward()
        return torch.cuda.max_memory_allocated() - before

    blocks = 2 * 4 * log_denominators.DEVICE_BLOCK_FRAMES**2
    copies = 12  # of the frames, in what is kept and in what passes
    peak_of(2)
    assert peak_of(64) < blocks + copies * 64 * 749 * 64 * 4


def test_supcon_of_many_frames_has_the_same_bits_each_time():
    frames, classes, mask = clustered(10, 300)
    first, second = (value_and_gradient(frame_supcon_loss, frames.float(), classes, mask) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_supcon_is_exact_where_the_rest_of_the_model_is_allowed_to_round():
    frames, classes, mask = clustered(4, 20)
    exact = value_and_gradient(frame_supcon_loss, frames.float(), classes, mask)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = value_and_gradient(frame_supcon_loss, frames.float(), classes, mask)
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert torch.equal(found[0], exact[0])
    assert torch.equal(found[1], exact[1])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("classes", [[0, 0, 1, 1], [0, 1, 2, 3]], ids=["positives", "no-positives"])
@pytest.mark.parametrize("temperature", [0.1, 1e-3])
@pytest.mark.parametrize("length", [1, 3])
def test_supcon_of_a_frame_that_is_no_number_is_no_number(bad, classes, temperature, length):
    frames = torch.tensor(some_frames()[:, :length], dtype=torch.float32)
    frames[1, 0, 1] = bad
    mask = torch.ones(4, length, dtype=torch.bool)
    assert frame_supcon_loss(frames, torch.tensor(classes), mask, temperature).isnan()


def test_supcon_of_one_class_is_the_equation():
    frames, mask = some_frames(), np.ones((4, 5), dtype=bool)
    found = frame_supcon_loss(torch.tensor(frames), torch.tensor([3, 3, 3, 3]), torch.tensor(mask), 0.1)
    assert found.item() == pytest.approx(typed_out(frames, [3, 3, 3, 3], mask, 0.1), rel=1e-10)


def test_supcon_is_that_of_pytorch_metric_learning():
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    frames, classes, mask = clustered(6, 40)
    labels = classes[:, None].expand(mask.shape)[mask]
    theirs = value_and_gradient(lambda x: losses.SupConLoss(temperature=0.1)(x[mask], labels), frames)
    ours = value_and_gradient(frame_supcon_loss, frames, classes, mask, 0.1)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


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
    monkeypatch.setattr(log_denominators, "CPU_BLOCK_FRAMES", 16)

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
    # The frames themselves; a block has 16 x 16.
    assert largest_of(256) == 256 * 8
    assert largest_of(1024) == 1024 * 8


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
