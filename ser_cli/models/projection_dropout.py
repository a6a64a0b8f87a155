"""Dropout between the self-attention and the feed-forward module of each transformer layer.

The label-adaptive mixup paper (section 3.3, its Table 1) varies "the projection dropout layer between multi-head
self-attention and feed-forward module" of HuBERT-Large and takes 0.4.
"""

from torch import nn

from ser_cli.errors import EncoderError
from ser_cli.models.layers import transformer_layers
from ser_cli.models.pretrained import PretrainedEncoder


def set_projection_dropout(encoder: PretrainedEncoder, probability: float, name: str) -> None:
    """Set the dropout on what the self-attention of each transformer layer adds to its input.

    Meant is the one dropout that stands where the paper's text and figure have it. With A the attention including its
    output projection, F the feed-forward module and N the normalisations, a layer of `transformers` computes

    - large models (`do_stable_layer_norm`):  h = x + dropout(A(N_1(x))),   y = h + F(N_2(h));
    - base models:                            h = N_1(x + dropout(A(x))),   y = N_2(h + F(h)).

    Where a place is not told, these keep what the checkpoint has: the dropout of the attention's probabilities inside
    A, the two inside F, the one before the first layer, and LayerDrop. `transformers` has one number,
    `hidden_dropout`, for this dropout, that of F's output and the one before the first layer, so that changing the
    configuration would change all three. No dropout acts in evaluation.

    Args:
        encoder: changed in place; its weights and configuration stay as they are.
        probability: that a number is dropped, in [0, 1).
        name: of the encoder, for the message.

    Raises:
        EncoderError: its layers are built otherwise, as those of Conformers are.
    """
    layers = transformer_layers(encoder, name)
    for layer in layers:
        if not isinstance(getattr(layer, "dropout", None), nn.Dropout) or not hasattr(layer, "feed_forward"):
            raise EncoderError(
                f"encoder.projection_dropout {probability:g}: the {type(layer).__name__} of encoder {name} has no"
                f" dropout between self-attention and feed-forward module\n"
                f"  leave the setting out, or take WavLM, HuBERT or wav2vec 2.0"
            )
    for layer in layers:
        layer.dropout.p = probability  # type: ignore[union-attr]
