"""Long recordings in pieces: decoded block by block, so that memory does not grow with their duration."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ser_cli.data.audio import MIN_DURATION_S, SAMPLE_RATE_HZ, open_recording


@dataclass(frozen=True)
class Piece:
    """One window of a recording."""

    start_s: float
    end_s: float
    waveform: NDArray[np.float32]
    """(samples,) at 16 kHz."""


def read_windows(path: Path, window_s: float, hop_s: float) -> Iterator[Piece]:
    """Cut a recording into windows of equal length while it is decoded.

    The first window starts at 0 and each next one a hop later, until one reaches the end of the recording; that
    last one may be shorter. What is under 25 ms at the end is left out.

    Raises:
        AudioError: the file cannot be decoded or is under 25 ms; after some pieces, that its values cannot be used
            or that it ends before its header says.
    """
    window, hop = round(window_s * SAMPLE_RATE_HZ), round(hop_s * SAMPLE_RATE_HZ)
    shortest = round(MIN_DURATION_S * SAMPLE_RATE_HZ)
    kept = np.zeros(0, dtype=np.float32)
    start = skip = 0
    reached = -1
    with open_recording(path) as stream:
        for block in stream.blocks:
            kept = np.concatenate([kept, block])
            kept, skip = kept[skip:], max(0, skip - len(kept))
            while not skip and len(kept) >= window:
                yield Piece(start / SAMPLE_RATE_HZ, (start + window) / SAMPLE_RATE_HZ, kept[:window].copy())
                reached = start + window
                start += hop
                kept, skip = kept[hop:], max(0, hop - len(kept))
    end = start + len(kept) - skip
    if end > max(reached, 0) and end - start >= shortest:
        yield Piece(start / SAMPLE_RATE_HZ, end / SAMPLE_RATE_HZ, kept)
