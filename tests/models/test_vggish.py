"""VGGish against its published front end and layers, typed out."""

import io
import os
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch.nn import functional as F

from ser_cli.errors import EncoderError
from ser_cli.models.vggish import VGGish, VGGishFrontEnd, load_vggish
from tests.models.tiny import padded, some_clips
from tests.models.tiny_text import SMALL_VGGISH, make_vggish_small, save_tiny_vggish


@pytest.fixture
def small(monkeypatch):
    make_vggish_small(monkeypatch)


def published_log_mel(waveform: np.ndarray) -> np.ndarray:
    """(frames, 64) by the constants that AudioSet publishes, in float64, one bin and one band at a time."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    frames = 1 + (len(waveform) - 400) // 160
    spectrum = np.stack([np.abs(np.fft.rfft(waveform[160 * t : 160 * t + 400] * window, 512)) for t in range(frames)])

    def mel(hz: float) -> float:
        return 1127.0 * np.log(1.0 + hz / 700.0)

    edges = np.linspace(mel(125.0), mel(7500.0), 66)
    bank = np.zeros((257, 64))
    for band in range(64):
        lower, center, upper = edges[band : band + 3]
        for k in range(1, 257):  # the constant part is left out
            at = mel(k * 16000 / 512)
            bank[k, band] = max(0.0, min((at - lower) / (center - lower), (upper - at) / (upper - center)))
    return np.log(spectrum @ bank + 0.01)


def test_patches_equal_the_published_front_end_typed_out():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        front_end = VGGishFrontEnd()
        waveform = np.random.default_rng(0).normal(0, 0.2, 2 * 15_360 + 240 + 5_000)
        patches, counts = front_end(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)]))
    finally:
        torch.set_default_dtype(before)
    expected = published_log_mel(waveform)
    assert counts.tolist() == [2]
    assert patches.shape == (1, 2, 96, 64)
    np.testing.assert_allclose(patches[0].reshape(192, 64).numpy(), expected[:192], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("samples", "patches"), [(1, 1), (399, 1), (15_599, 1), (15_600, 1), (30_959, 1), (30_960, 2), (480_000, 31)]
)
def test_a_clip_has_as_many_patches_as_fit_and_at_least_one(samples, patches):
    _, counts = VGGishFrontEnd()(torch.zeros(1, samples), torch.tensor([samples]))
    assert counts.tolist() == [patches]  # (96 p - 1) 160 + 400 samples hold p patches


def test_a_short_clip_is_continued_with_silence():
    clip = torch.randn(1, 4_000, generator=torch.Generator().manual_seed(0))
    patches, _ = VGGishFrontEnd()(clip, torch.tensor([4_000]))
    behind = np.log(0.01)
    assert torch.allclose(patches[0, 0, 25:], torch.full((71, 64), behind))
    assert (patches[0, 0, :23] > behind + 0.1).any(dim=1).all()


def published_layers(patches: torch.Tensor, weights: dict[str, torch.Tensor]) -> torch.Tensor:
    """(patches, dim) by the layers that AudioSet publishes, in TensorFlow's layout: channels last, (in, out)."""
    x = patches[..., None]  # (patches, height, width, channels)

    def convolve(x, name):
        kernel, bias = weights[f"vggish/{name}/weights"], weights[f"vggish/{name}/biases"]
        height, width = x.shape[1:3]
        around = F.pad(x, (0, 0, 1, 1, 1, 1))
        out = sum(
            torch.einsum("bhwi,io->bhwo", around[:, i : i + height, j : j + width], kernel[i, j])
            for i in range(3)
            for j in range(3)
        )
        return (out + bias).clamp(min=0)

    def largest(x):
        return torch.stack([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]).amax(dim=0)

    for block in (["conv1"], ["conv2"], ["conv3/conv3_1", "conv3/conv3_2"], ["conv4/conv4_1", "conv4/conv4_2"]):
        for name in block:
            x = convolve(x, name)
        x = largest(x)
    x = x.reshape(len(x), -1)
    for name in ("fc1/fc1_1", "fc1/fc1_2", "fc2"):
        x = (x @ weights[f"vggish/{name}/weights"] + weights[f"vggish/{name}/biases"]).clamp(min=0)
    return x


def as_tensorflow(path: Path) -> dict[str, np.ndarray]:
    """Weights of the PyTorch port under the names and in the layout of the published checkpoint."""
    names = ["conv1", "conv2", "conv3/conv3_1", "conv3/conv3_2", "conv4/conv4_1", "conv4/conv4_2"]
    names += ["fc1/fc1_1", "fc1/fc1_2", "fc2"]
    places = [*(f"features.{k}" for k in (0, 3, 6, 8, 11, 13)), *(f"embeddings.{k}" for k in (0, 2, 4))]
    ported = safetensors.torch.load_file(path)
    found = {}
    for name, place in zip(names, places, strict=True):
        weight = ported[f"{place}.weight"].numpy()
        found[f"vggish/{name}/weights"] = weight.transpose(2, 3, 1, 0) if weight.ndim == 4 else weight.T
        found[f"vggish/{name}/biases"] = ported[f"{place}.bias"].numpy()
    return found


@pytest.mark.parametrize("suffix", ["", ":0"])
def test_weights_of_the_published_checkpoint_give_its_layers_typed_out(small, tmp_path, suffix):
    published = as_tensorflow(save_tiny_vggish(tmp_path / "port.safetensors"))
    np.savez(tmp_path / "vggish.npz", **{name + suffix: value for name, value in published.items()})
    model = load_vggish(str(tmp_path / "vggish.npz")).double()
    clip = torch.randn(1, 31_000, generator=torch.Generator().manual_seed(0)).double()
    frames, counts = model(clip, torch.tensor([31_000]))
    patches, _ = model.front_end(clip, torch.tensor([31_000]))
    weights = {name: torch.from_numpy(value.astype(np.float64)) for name, value in published.items()}
    expected = published_layers(patches[0], weights)
    assert counts.tolist() == [2]
    assert (expected > 0).any(dim=1).all()
    assert (expected[0] - expected[1]).abs().max() > 1e-3
    torch.testing.assert_close(frames[0], expected, rtol=1e-9, atol=1e-9)


def test_weights_of_the_pytorch_port_and_of_the_checkpoint_are_the_same_model(small, tmp_path):
    port = save_tiny_vggish(tmp_path / "port.safetensors")
    np.savez(tmp_path / "vggish.npz", **as_tensorflow(port))
    a, b = load_vggish(str(port)).state_dict(), load_vggish(str(tmp_path / "vggish.npz")).state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_weights_of_the_post_processing_are_left_aside(small, tmp_path):
    port = safetensors.torch.load_file(save_tiny_vggish(tmp_path / "port.safetensors"))
    safetensors.torch.save_file({**port, "pproc.pca_means": torch.zeros(128, 1)}, tmp_path / "more.safetensors")
    assert load_vggish(str(tmp_path / "more.safetensors")).dim == 16


def test_a_clip_in_a_padded_batch_gives_what_it_gives_alone(small, tmp_path):
    model = load_vggish(str(save_tiny_vggish(tmp_path / "port.safetensors"))).eval()
    clips = some_clips((47_000, 16_100, 3_000))
    frames, counts = model(*padded(clips))
    assert counts.tolist() == [3, 1, 1]
    for row, clip in enumerate(clips):
        alone, _ = model(clip[None], torch.tensor([len(clip)]))
        torch.testing.assert_close(frames[row, : counts[row]], alone[0], rtol=1e-5, atol=1e-6)
    assert not frames[1, 1:].any()


def test_every_layer_learns_and_frozen_convolutions_do_not(small, tmp_path):
    model = load_vggish(str(save_tiny_vggish(tmp_path / "port.safetensors")))
    model(*padded(some_clips((17_000, 33_000))))[0].sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())
    model.freeze_convolutions()
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"embeddings"}


def test_gradients_are_those_of_differences(small, tmp_path):
    model = load_vggish(str(save_tiny_vggish(tmp_path / "port.safetensors"))).double()
    clip = torch.randn(1, 31_000, generator=torch.Generator().manual_seed(0)).double()
    names = ["features.0.weight", "features.8.bias", "features.13.weight", "embeddings.0.bias", "embeddings.4.weight"]
    weights = tuple(model.get_parameter(name).detach().clone().requires_grad_() for name in names)

    def frames(*values):
        return torch.func.functional_call(model, dict(zip(names, values, strict=True)), (clip, torch.tensor([31_000])))[
            0
        ]

    assert torch.autograd.gradcheck(frames, weights, fast_mode=True)


@pytest.mark.slow
def test_the_published_sizes_are_built_where_none_are_named():
    shapes = {name: tuple(p.shape) for name, p in VGGish().named_parameters() if name.endswith("weight")}
    assert shapes == {
        "features.0.weight": (64, 1, 3, 3),
        "features.3.weight": (128, 64, 3, 3),
        "features.6.weight": (256, 128, 3, 3),
        "features.8.weight": (256, 256, 3, 3),
        "features.11.weight": (512, 256, 3, 3),
        "features.13.weight": (512, 512, 3, 3),
        "embeddings.0.weight": (4096, 12_288),
        "embeddings.2.weight": (4096, 4096),
        "embeddings.4.weight": (128, 4096),
    }


class Payload:
    """A pickle of this makes a folder as soon as it is loaded."""

    def __reduce__(self):
        return os.mkdir, ("was-run",)


def write_hostile(path: Path) -> None:
    torch.save({"features.0.weight": torch.zeros(2), "payload": Payload()}, path)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("vggish.pth", "safetensors.torch.save_file(torch.load('vggish.pth', weights_only=True)"),
        ("vggish_model.ckpt", "tensorflow.train.load_checkpoint('vggish_model.ckpt')"),
        ("vggish.safetensors", "safetensors"),
        ("vggish.npz", "safetensors"),
    ],
)
def test_a_pickle_is_refused_by_name_or_first_bytes_and_not_run(small, name, advice):
    write_hostile(Path(name))
    with pytest.raises(EncoderError, match=f"encoder.weights {name} is a pickle.*it was not opened") as error:
        load_vggish(name)
    assert advice in str(error.value)
    assert not Path("was-run").exists()


def test_an_array_of_objects_in_an_npz_is_refused_and_not_run(small):
    held = io.BytesIO()
    np.save(held, np.zeros(1))
    header = held.getvalue()[:-8].replace(b"'<f8'", b"'|O' ")
    with zipfile.ZipFile("x.npz", "w") as archive:
        archive.writestr("a.npy", header + pickle.dumps(Payload()))
    with pytest.raises(EncoderError, match=r"x\.npz: cannot be read"):
        load_vggish("x.npz")
    assert not Path("was-run").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda w: w.pop("features.6.bias"), "1 weight of VGGish are missing, such as features.6.bias"),
        (
            lambda w: w.update({"features.0.bias": torch.zeros(5)}),
            "features.0.bias is torch.float32 of shape (5,); expected floating point of shape (4,)",
        ),
        (
            lambda w: w.update({"features.0.bias": torch.zeros(4, dtype=torch.int64)}),
            "features.0.bias is torch.int64 of shape (4,)",
        ),
        (
            lambda w: w.update({"embeddings.4.bias": torch.full((16,), torch.nan)}),
            "embeddings.4.bias holds values that are NaN or infinite",
        ),
    ],
)
def test_weights_that_are_not_those_of_vggish_are_told_apart(small, tmp_path, change, told):
    weights = safetensors.torch.load_file(save_tiny_vggish(tmp_path / "port.safetensors"))
    change(weights)
    safetensors.torch.save_file(weights, "changed.safetensors")
    with pytest.raises(EncoderError, match=re.escape(told)):
        load_vggish("changed.safetensors")


def test_weights_that_cannot_be_read_are_named(small):
    Path("cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    for name, told in {
        "": "encoder vggish: it needs its published weights, and encoder.weights names no file",
        "not-there.npz": "encoder.weights not-there.npz: no such file",
        "cut.safetensors": "encoder.weights cut.safetensors: cannot be read",
        "vggish.h5": "expected a file that ends in .safetensors or .npz",
    }.items():
        with pytest.raises(EncoderError, match=re.escape(told)):
            load_vggish(name)


def test_the_small_sizes_of_these_tests_are_not_the_published(small):
    assert VGGish().embeddings[4].out_features == SMALL_VGGISH["dim"] != 128
