"""Dropout of attention probabilities that no tensor has to hold."""

from typing import NamedTuple

import torch
from torch import Tensor


class AttentionDropout(NamedTuple):
    """Which attention probabilities are dropped, told by one number for each query and one for each key.

    The two are drawn evenly and apart from each other, and mixed for each pair. Any two pairs of a clip and head thus
    are dropped independently, each as often as by `torch.nn.functional.dropout`, and a pair can be asked about as
    often as an algorithm likes: in blocks, in another order, again in the backward pass, on another device.
    """

    share: float
    queries: Tensor
    """(batch, heads, frames) int32."""
    keys: Tensor
    """(batch, frames) int32."""

    @classmethod
    def draw(cls, share: float, batch: int, heads: int, frames: int, device: torch.device) -> "AttentionDropout":
        """New numbers from the device's own generator, where `torch.nn.functional.dropout` draws its own."""
        numbers = torch.randint(-(2**31), 2**31, (batch, heads + 1, frames), device=device).int()
        return cls(share, numbers[:, :-1], numbers[:, -1])


def largest_dropped(share: float) -> int:
    """The number that this share of all int32 do not exceed: where `mix` gives no more, a pair is dropped."""
    return round(share * 2**32) - 2**31 - 1


def mix(query: Tensor, key: Tensor) -> Tensor:
    """A number for each pair of a query and a key.

    Args:
        query: any shape, int32.
        key: any shape, int32, broadcast with `query`.

    Returns:
        int32. Two rounds of multiplying and folding, which leave no pattern in the high bits. Constants:
        "lowbias32" of https://github.com/skeeto/hash-prospector; the last folding is left out, as a comparison looks
        at the high bits.
    """
    number = query ^ key
    number = (number ^ (number >> 16)) * 0x21F0AAAD
    return (number ^ (number >> 15)) * (0xD35A2D97 - 2**32)  # int32 has a sign
