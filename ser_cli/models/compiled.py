"""Layers that torch.compile makes one kernel of many; where it cannot, they run as they are."""

import logging

import torch
from torch import nn

logger = logging.getLogger(__name__)


def compile_layers(encoder: nn.Module) -> int:
    """Compile the transformer layers of an encoder in place; weights and their names stay.

    Layer by layer, since all are alike: one compilation serves them all, and lengths that change from batch to batch
    are compiled for once. What fails to compile runs as it is, which torch says in its log.

    Returns:
        How many layers are compiled; 0 for an encoder that has none, such as the built-in one.
    """
    torch._dynamo.config.suppress_errors = True
    layers = [module for name, module in encoder.named_modules() if name.rsplit(".", 1)[0].endswith("encoder.layers")]
    for layer in layers:
        layer.compile(dynamic=True)
    if not layers:
        logger.info("nothing to compile: the encoder has no transformer layers")
    return len(layers)
