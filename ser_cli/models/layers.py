"""Which layers of a pre-trained encoder are kept, and how their outputs become one sequence of frames."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ser_cli.errors import EncoderError
from ser_cli.models.pretrained import PretrainedEncoder


def keep_first_layers(encoder: PretrainedEncoder, layers: int, name: str) -> None:
    """Drop an encoder's later transformer layers for good: neither memory nor time goes to them any more.

    The label-adaptive mixup paper keeps the first 22 of HuBERT-Large's 24. The normalisation that large models apply
    behind their last layer stays behind the last one that is kept, as it does where `transformers` builds the
    model with fewer layers.

    Args:
        encoder: changed in place.
        layers: how many to keep.
        name: of the encoder, for the message.

    Raises:
        EncoderError: it has fewer, or does not tell which they are.
    """
    present = transformer_layers(encoder, name)
    if layers > len(present):
        raise EncoderError(
            f"encoder.layers {layers}: encoder {name} has {len(present)} transformer layers\n"
            f"  give at most as many, or 0 for all: --set encoder.layers=0"
        )
    model: Any = encoder.model
    model.encoder.layers = present[:layers]
    model.config.num_hidden_layers = layers


def transformer_layers(encoder: PretrainedEncoder, name: str) -> nn.ModuleList:
    """The transformer layers of an encoder, in their order.

    Raises:
        EncoderError: the model keeps them elsewhere than WavLM, HuBERT and wav2vec 2.0 do.
    """
    layers = getattr(getattr(encoder.model, "encoder", None), "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise EncoderError(
            f"encoder {name}: the layers of a {type(encoder.model).__name__} cannot be told apart\n"
            f"  encoder.layers and encoder.fusion need WavLM, HuBERT or wav2vec 2.0; leave them out for this encoder"
        )
    return layers


class WeightedSum(nn.Module):
    """A learnable weighted sum of sequences of one shape.

    h = sum_l softmax(a)_l h_l, section 2.1 of the multi-task paper after SUPERB (Yang et al.); a starts at 0, so
    that training starts from the mean.
    """

    def __init__(self, sequences: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(sequences))

    @property
    def weights(self) -> Tensor:
        """(sequences,), sums to 1."""
        return self.logits.softmax(dim=0)

    def forward(self, sequences: Sequence[Tensor]) -> Tensor:
        """Sum sequences of (batch, frames, dim) each."""
        terms = [weight * sequence for weight, sequence in zip(self.weights, sequences, strict=True)]
        return sum(terms[1:], terms[0])


class FusedEncoder(nn.Module):
    """A pre-trained encoder whose frames are the weighted sum of what all its layers give.

    Summed are, as in SUPERB, the input of the first transformer layer, the output of each layer but the last, and
    what the encoder returns: the last layer's output, behind the normalisation that large models end in. Where
    LayerDrop leaves a layer out in training, what went in is what comes out, so that each weight stays with its layer.
    """

    def __init__(self, encoder: PretrainedEncoder, name: str) -> None:
        """Wrap an encoder.

        Args:
            encoder: whose layers are summed.
            name: of it, for the message.

        Raises:
            EncoderError: its layers cannot be told apart.
        """
        super().__init__()
        self.encoder = encoder
        self.name = name
        self.fusion = WeightedSum(len(transformer_layers(encoder, name)) + 1)

    @property
    def dim(self) -> int:
        """Width of a frame."""
        return self.encoder.dim

    @property
    def exact_under_padding(self) -> bool:
        """Whether a clip in a padded batch gives what it gives alone."""
        return self.encoder.exact_under_padding

    def frames_of(self, lengths: Tensor) -> Tensor:
        """(batch,) frames of clips of (batch,) samples."""
        return self.encoder.frames_of(lengths)

    def forward(
        self, waveforms: Tensor, lengths: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Frames (batch, frames, dim) and their numbers (batch,) of waveforms (batch, time).

        Raises:
            EncoderError: the encoder shortens or widens what its layers give.
        """
        layers = transformer_layers(self.encoder, self.name)
        with _recorded(layers) as (entering, leaving):
            frames, counts = self.encoder(waveforms, lengths, generator)
        # LayerDrop may leave all layers out: then nothing but what the encoder returns is known.
        state = next(iter(entering.values()), frames)
        states = []
        for position in range(len(layers)):
            states.append(state)
            state = leaving.get(position, state)
        if state.shape != frames.shape:
            raise EncoderError(
                f"encoder {self.name}: its layers give {_size(state)} and the encoder itself {_size(frames)}, which"
                f" cannot be added up\n  take its last layer: --set encoder.fusion=last"
            )
        return self.fusion([*states, frames]), counts


def _size(frames: Tensor) -> str:
    return f"{frames.shape[1]} frames of width {frames.shape[2]}"


@contextmanager
def _recorded(layers: nn.ModuleList) -> Iterator[tuple[dict[int, Tensor], dict[int, Tensor]]]:
    """What goes into and comes out of each layer while the block runs, by its position.

    Hooks of a single run: lasting ones would still write to the original where a model is copied. The hidden states
    that `transformers` returns by itself lack those of layers that LayerDrop leaves out, and so tell no positions.
    """
    entering: dict[int, Tensor] = {}
    leaving: dict[int, Tensor] = {}

    def enter(position: int, _: nn.Module, arguments: tuple[Any, ...]) -> None:
        entering[position] = arguments[0]

    def leave(position: int, _: nn.Module, __: tuple[Any, ...], result: Any) -> None:
        # WavLM's layers return their position bias as well.
        leaving[position] = result[0] if isinstance(result, tuple) else result

    hooks = [layer.register_forward_pre_hook(partial(enter, position)) for position, layer in enumerate(layers)]
    hooks += [layer.register_forward_hook(partial(leave, position)) for position, layer in enumerate(layers)]
    try:
        yield entering, leaving
    finally:
        for hook in hooks:
            hook.remove()
