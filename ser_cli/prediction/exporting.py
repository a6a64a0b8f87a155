"""A trained model as an ONNX file, for programs without Python or torch."""

import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ser_cli import __version__
from ser_cli.checkpoints import TrainedModel
from ser_cli.data.audio import SAMPLE_RATE_HZ
from ser_cli.encoder_settings import VGGISH_ENCODER
from ser_cli.errors import DependencyError, SerError
from ser_cli.files import write_atomically
from ser_cli.models.classifier import EmotionClassifier
from ser_cli.provenance import PREPROCESSING

OPSET = 18
LARGEST_BYTES = 2_000_000_000
"""A single ONNX file is a protobuf message, which ends at 2 GiB."""


class _Probabilities(nn.Module):
    """What the file computes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        probabilities: Tensor = self.model(waveforms, lengths).logits.softmax(dim=-1)
        return probabilities


class _ProbabilitiesAndEmbeddings(nn.Module):
    """What the file of a model that normalises by speaker computes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, waveforms: Tensor, lengths: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        output = self.model(waveforms, lengths, offsets=offsets)
        return output.logits.softmax(dim=-1), output.embedding + offsets


def export_onnx(trained: TrainedModel, path: Path) -> None:
    """Write a model that takes waveforms and lengths and gives probabilities.

    Inputs: `waveforms` (batch, time) float32 at 16 kHz, zeros behind each clip's end; `lengths` (batch,) int64 in
    samples. Output: `probabilities` (batch, classes). Labels, preprocessing and provenance stand in the metadata.

    A model that normalises by speaker has one input more, `offsets` (batch, embedding_dim), and one output more,
    `embeddings` (batch, embedding_dim), which do not depend on the offsets. Recordings are run twice: with any offsets
    for the embeddings f_1 … f_n of a speaker, and then with (f_1 + … + f_n + c) / (n + 1), where the metadata has c as
    `speaker_center`.

    Args:
        trained: the model.
        path: of the file.

    Raises:
        DependencyError: what writes ONNX is not installed.
        SerError: the model cannot be written as ONNX.
    """
    _require_waveforms_alone(trained, path)
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise DependencyError("--export onnx needs onnxscript: pip install 'ser-cli[onnx]'") from None
    size = sum(p.numel() * p.element_size() for p in trained.model.parameters())
    if size > LARGEST_BYTES:
        raise SerError(f"{path}: the weights take {size / 1e9:.1f} GB; one ONNX file holds 2 GB at most")
    model = trained.model.cpu()
    wrapped: nn.Module = _ProbabilitiesAndEmbeddings(model) if model.speakers else _Probabilities(model)
    inputs, free = _example(model), torch.export.Dim.DYNAMIC
    changing = {"waveforms": {0: free, 1: free}, "lengths": {0: free}, "offsets": {0: free}}
    try:
        with _quiet():
            program = torch.onnx.export(
                wrapped.eval(),
                tuple(inputs.values()),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(inputs),
                output_names=["probabilities", "embeddings"] if model.speakers else ["probabilities"],
                dynamic_shapes=tuple(changing[name] for name in inputs),
                verbose=False,
            )
    except Exception as error:  # the exporter lets through whatever its many passes raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SerError(
            f"{path}: this model cannot be written as ONNX: encoder {trained.recipe.encoder.name} has a part that"
            f" torch.onnx does not know ({reason})\n  the built-in encoder, WavLM and HuBERT can be written"
        ) from error
    assert program is not None
    _write(program, _metadata(trained), path)


def _example(model: EmotionClassifier) -> dict[str, Tensor]:
    """Inputs by their names: two clips of unlike length, so that nothing about the batch may look constant."""
    lengths = torch.tensor([SAMPLE_RATE_HZ, SAMPLE_RATE_HZ * 3 // 4])
    waveforms = torch.randn(2, SAMPLE_RATE_HZ, generator=torch.Generator().manual_seed(0)) * 0.1
    waveforms[1, lengths[1] :] = 0
    offsets = {"offsets": torch.zeros(2, model.embedding_dim)} if model.speakers else {}
    return {"waveforms": waveforms, "lengths": lengths, **offsets}


def _require_waveforms_alone(trained: TrainedModel, path: Path) -> None:
    if trained.model.text is not None:
        raise SerError(
            f"{path}: this model reads a transcript beside each recording, cut into the tokens of"
            f" {trained.recipe.text.encoder}, and an ONNX file of ser takes waveforms alone\n"
            f"  predict with ser itself: ser predict --texts FILE; or export a model without text.encoder"
        )
    if trained.recipe.encoder.name == VGGISH_ENCODER:
        raise SerError(
            f"{path}: VGGish makes a batch of as many patches as its recordings hold, which torch.onnx cannot write\n"
            f"  the built-in encoder, WavLM and HuBERT can be written"
        )


def _metadata(trained: TrainedModel) -> dict[str, str]:
    told: dict[str, Any] = {
        "labels": list(trained.labels),
        "preprocessing": PREPROCESSING,
        "weights_sha256": trained.weights_sha256,
        "program": f"ser {__version__}",
    }
    if trained.model.speakers is not None:
        told["speaker_center"] = trained.model.speakers.center.tolist()
    if trained.provenance:
        source = trained.provenance
        told |= {
            "licence_of_the_recordings": source.licence,
            "corpus": source.corpus,
            "protocol": source.protocol,
            "protocol_hash": source.protocol_hash,
            "fold": source.fold,
            "speakers": source.speakers,
        }
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in told.items()}


def _write(program: Any, metadata: dict[str, str], path: Path) -> None:
    program.model.metadata_props.update(metadata)
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "model.onnx"
        program.save(written, external_data=False)
        write_atomically(path, written.read_bytes())


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on packages that are not installed and on its own steps."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
