"""VGGish, the convolutional encoder that was published with AudioSet: front end, layers, weights from a file.

Hershey et al. 2017; sizes and names are those of the published TensorFlow model and of its common PyTorch port.
"""

import io
import zipfile
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ser_cli.data.audio import SAMPLE_RATE_HZ
from ser_cli.errors import EncoderError, count_of
from ser_cli.files import read_bounded
from ser_cli.models.folders import PICKLE_SUFFIXES, begins_as_pickle
from ser_cli.models.masks import frame_mask

WINDOW = 400
"""Samples of a frame, 25 ms."""
HOP = 160
"""Samples from one frame to the next, 10 ms."""
FFT = 512
MEL_BANDS = 64
LOWEST_HZ, HIGHEST_HZ = 125.0, 7500.0
LOG_OFFSET = 0.01
PATCH_FRAMES = 96
"""Of a patch, 0.96 s; patches do not overlap."""

TENSORFLOW_LAYERS = {
    "vggish/conv1": "features.0",
    "vggish/conv2": "features.3",
    "vggish/conv3/conv3_1": "features.6",
    "vggish/conv3/conv3_2": "features.8",
    "vggish/conv4/conv4_1": "features.11",
    "vggish/conv4/conv4_2": "features.13",
    "vggish/fc1/fc1_1": "embeddings.0",
    "vggish/fc1/fc1_2": "embeddings.2",
    "vggish/fc2": "embeddings.4",
}
"""Names of the published checkpoint by those of the PyTorch port, which are the names here."""

SUFFIXES = (".safetensors", ".npz")
"""Of files of weights."""
MAX_BYTES = 1 << 30
"""Of a file of weights; the published ones take 288 MB."""


class VGGishFrontEnd(nn.Module):
    """Log-mel patches as AudioSet's code makes them; nothing in it is learnt.

    Magnitude spectrogram of 25 ms under a periodic Hann window every 10 ms with 512 points, 64 triangles that are
    straight over HTK's mel scale from 125 to 7500 Hz, log(mel + 0.01), cut into patches of 96 frames.

    A frame that does not lie in the clip as a whole is left out, and so is a last patch that is not full, as in the
    published code: of 1.9 s the first 0.96 are heard. A clip that has no full patch is continued with silence.
    """

    def __init__(self) -> None:
        super().__init__()
        from transformers.audio_utils import mel_filter_bank

        bank = mel_filter_bank(
            FFT // 2 + 1,
            MEL_BANDS,
            LOWEST_HZ,
            HIGHEST_HZ,
            SAMPLE_RATE_HZ,
            mel_scale="kaldi",  # 1127 ln(1 + f / 700), HTK's
            triangularize_in_mel_space=True,
        )
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)
        self.register_buffer("bank", torch.from_numpy(bank).to(torch.get_default_dtype()), persistent=False)

    def frames_of(self, lengths: Tensor) -> Tensor:
        """(batch,) patches of clips of (batch,) samples."""
        frames = (lengths - WINDOW).div(HOP, rounding_mode="floor") + 1
        return frames.div(PATCH_FRAMES, rounding_mode="floor").clamp(min=1)

    @torch.no_grad()
    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Patches (batch, patches, 96, 64) and how many each clip has (batch,), at least one.

        Args:
            waveforms: (batch, time) at 16 kHz in [-1, 1], zeros behind each clip's end.
            lengths: (batch,) in samples.
        """
        assert isinstance(self.window, Tensor)
        assert isinstance(self.bank, Tensor)
        patches = self.frames_of(lengths)
        longest = int(patches.max())
        samples = (longest * PATCH_FRAMES - 1) * HOP + WINDOW
        heard = F.pad(waveforms.to(self.window.dtype), (0, samples - waveforms.shape[1]))
        with torch.autocast(waveforms.device.type, enabled=False):  # 8 bits are too few for magnitudes
            magnitudes = torch.fft.rfft(heard.unfold(1, WINDOW, HOP) * self.window, FFT).abs()
            mel = (magnitudes @ self.bank + LOG_OFFSET).log()
        return mel.unflatten(1, (longest, PATCH_FRAMES)), patches


class VGGish(nn.Module):
    """Waveforms to one frame of 128 values for each 0.96 s.

    Six convolutions of 3 x 3 with ReLU, maxima over 2 x 2 behind the first, second, fourth and sixth, then three
    linear layers with ReLU. Published in 2017 with a ReLU behind the last one too, as the PyTorch port has it and the
    papers on SERVER and 3M-SER use it; Google's later code leaves that one to whoever builds on it.

    The post-processing that AudioSet's released features went through (PCA, whitening, 8 bits) is left out: it is for
    comparing with those features, and its rounding lets no gradient through.
    """

    exact_under_padding = True
    """No patch reaches beyond the clip that it counts for."""

    def __init__(
        self,
        *,
        channels: tuple[int, int, int, int] = (64, 128, 256, 512),
        hidden_dim: int = 4096,
        dim: int = 128,
    ) -> None:
        """Set the layers up with random weights.

        Args:
            channels: of the convolutions before each of the four maxima; other sizes than the published are for tests.
            hidden_dim: of the first two linear layers.
            dim: width of a frame.
        """
        super().__init__()
        first, second, third, fourth = channels
        self.dim = dim
        self.front_end = VGGishFrontEnd()
        # Without a parameter each: places in the list give the names of the PyTorch port.
        self.features = nn.Sequential(
            *_convolution(1, first),
            nn.MaxPool2d(2),
            *_convolution(first, second),
            nn.MaxPool2d(2),
            *_convolution(second, third),
            *_convolution(third, third),
            nn.MaxPool2d(2),
            *_convolution(third, fourth),
            *_convolution(fourth, fourth),
            nn.MaxPool2d(2),
        )
        flattened = fourth * (PATCH_FRAMES // 16) * (MEL_BANDS // 16)
        self.embeddings = nn.Sequential(
            nn.Linear(flattened, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, dim),
            nn.ReLU(),
        )

    def frames_of(self, lengths: Tensor) -> Tensor:
        """(batch,) frames of clips of (batch,) samples."""
        return self.front_end.frames_of(lengths)

    def freeze_convolutions(self) -> None:
        """Train the linear layers alone."""
        self.features.requires_grad_(False)

    def forward(
        self, waveforms: Tensor, lengths: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Frames (batch, patches, dim) and their numbers (batch,) of waveforms (batch, time).

        Frames behind a clip's last patch are 0. `generator` is not used: nothing is augmented.
        """
        patches, counts = self.front_end(waveforms, lengths)
        mask = frame_mask(counts, patches.shape[1])
        maps = self.features(patches[mask].unsqueeze(1))
        # Flattened with the channels last, the order of TensorFlow.
        values = self.embeddings(maps.permute(0, 2, 3, 1).flatten(1))
        frames = values.new_zeros(*mask.shape, self.dim)
        frames[mask] = values
        return frames, counts


def _convolution(inputs: int, outputs: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()


def load_vggish(path: str) -> VGGish:
    """VGGish with weights from a file.

    Args:
        path: of a safetensors or .npz file with the names and layout of the published TensorFlow checkpoint
            (`vggish/conv1/weights`, (height, width, in, out)) or of its PyTorch port (`features.0.weight`).

    Raises:
        EncoderError: there is no such file, it is none of the two kinds, or its weights are not VGGish's.
    """
    require_weights_file(path)
    model = VGGish()
    model.load_state_dict(_fitting(_as_ported(_read(Path(path).expanduser())), model, path))
    return model


def require_weights_file(path: str) -> None:
    """See what can be seen of a file of weights without reading it.

    Raises:
        EncoderError: none is named, there is none, or its name is of another kind.
    """
    if not path:
        raise EncoderError(
            "encoder vggish: it needs its published weights, and encoder.weights names no file\n"
            "  give a safetensors or .npz file of them: --set encoder.weights=FILE"
        )
    file = Path(path).expanduser()
    suffix = file.suffix.lower()
    if suffix in PICKLE_SUFFIXES:
        raise _pickle(file)
    if suffix not in SUFFIXES:
        raise EncoderError(
            f"encoder.weights {file}: expected a file that ends in {' or '.join(SUFFIXES)}\n  {_how_to_convert(file)}"
        )
    if not file.exists():
        raise EncoderError(
            f"encoder.weights {file}: no such file\n"
            f"  give the file of VGGish's published weights: --set encoder.weights=FILE"
        )


def _read(path: Path) -> dict[str, Tensor]:
    """The arrays of a file by their names."""
    try:
        content = read_bounded(path, MAX_BYTES)
        if path.suffix.lower() == ".npz":
            return _from_npz(content, path)
        if begins_as_pickle(content):
            raise _pickle(path)
        return safetensors.torch.load(content)
    except EncoderError:
        raise
    except Exception as error:  # NumPy, zipfile and safetensors raise nearly anything at a damaged file
        reason = getattr(error, "strerror", None) or str(error).strip().partition("\n")[0] or type(error).__name__
        raise EncoderError(
            f"encoder.weights {path}: cannot be read ({reason})\n  copy the file again, or convert it anew"
        ) from error


def _from_npz(content: bytes, path: Path) -> dict[str, Tensor]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
    if any(not member.filename.endswith(".npy") for member in members):  # such as what torch.save writes, also a zip
        raise _pickle(path)
    unpacked = sum(member.file_size for member in members)
    if unpacked > MAX_BYTES:
        raise ValueError(f"{len(content):,} bytes would unpack to {unpacked:,}")
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def _as_ported(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights with the names and layout of the PyTorch port; what has those already stays as it is."""
    ported = {}
    for name, value in weights.items():
        layer, _, kind = name.removesuffix(":0").rpartition("/")
        if layer in TENSORFLOW_LAYERS and kind in ("weights", "biases"):
            name = f"{TENSORFLOW_LAYERS[layer]}.{'bias' if kind == 'biases' else 'weight'}"  # noqa: PLW2901
            # (height, width, in, out) and (in, out) there; (out, in, height, width) and (out, in) here.
            value = value.permute(3, 2, 0, 1) if value.ndim == 4 else value.T if value.ndim == 2 else value  # noqa: PLW2901
        ported[name] = value
    return ported


def _fitting(weights: dict[str, Tensor], model: VGGish, path: str) -> dict[str, Tensor]:
    """Those of the weights that the model has, such as none of the post-processing.

    Raises:
        EncoderError: one is missing, of another shape, or holds no numbers.
    """
    wanted = model.state_dict()
    missing = sorted(wanted.keys() - weights.keys())
    if missing:
        raise EncoderError(
            f"encoder.weights {path}: {count_of(len(missing), 'weight')} of VGGish are missing, such as {missing[0]}\n"
            f"  expected the names of the published checkpoint (vggish/conv1/weights) or of its PyTorch port"
            f" (features.0.weight)"
        )
    for name, value in wanted.items():
        found = weights[name]
        if found.shape != value.shape or not found.is_floating_point():
            raise EncoderError(
                f"encoder.weights {path}: {name} is {found.dtype} of shape {tuple(found.shape)}; expected floating"
                f" point of shape {tuple(value.shape)}\n  give the published weights of VGGish"
            )
        if not bool(found.isfinite().all()):
            raise EncoderError(
                f"encoder.weights {path}: {name} holds values that are NaN or infinite\n"
                f"  the file is damaged: copy it again, or convert it anew"
            )
    return {name: weights[name].to(value.dtype).contiguous() for name, value in wanted.items()}


def _pickle(path: Path) -> EncoderError:
    return EncoderError(
        f"encoder.weights {path} is a pickle, which runs whatever code its author put in, or a checkpoint of"
        f" TensorFlow; it was not opened\n"
        f"  expected a .safetensors or .npz file: ask for one, or where you trust its author\n"
        f"  {_how_to_convert(path)}"
    )


def _how_to_convert(path: Path) -> str:
    """One line of Python, for a person who trusts the file's author."""
    if path.suffix.lower() in (".ckpt", ".index", ".meta", ".data-00000-of-00001"):
        return (
            f"convert it, in Python: import numpy, tensorflow; r = tensorflow.train.load_checkpoint({str(path)!r});"
            f" numpy.savez('vggish.npz', **{{n: r.get_tensor(n) for n in r.get_variable_to_shape_map()}})"
        )
    return (
        f"convert it, in Python: import safetensors.torch, torch; safetensors.torch.save_file(torch.load("
        f"{str(path)!r}, weights_only=True), 'vggish.safetensors')"
    )
