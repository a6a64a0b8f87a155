"""Prepared corpora written directly, so that a test can have clips of any length without decoding."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ser_cli.data.manifest import Utterance
from ser_cli.data.store import AUDIO_NAME, FORMAT_VERSION, Preparation, PreparedCorpus, StoredAudio

LABELS = ("sad", "happy", "angry")


def stored_corpus(folder: Path, lengths: Mapping[str, int], *, sounding: int = 100_000) -> PreparedCorpus:
    """A corpus of noise; the emotions take turns.

    Args:
        folder: where it goes.
        lengths: samples of each clip, by id.
        sounding: samples of each clip that hold noise; behind them lies a hole of the file that takes no disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    utterances, audio, offset = [], [], 0
    with (folder / AUDIO_NAME).open("wb") as file:
        for number, (identity, samples) in enumerate(sorted(lengths.items())):
            file.seek(4 * offset)
            noise = rng.normal(0, 0.1 + 0.1 * (number % 3), min(samples, sounding))
            file.write(noise.astype("<f4").tobytes())
            utterances.append(Utterance(identity, "", LABELS[number % 3], f"p{number % 4}"))
            audio.append(StoredAudio(identity, offset, samples, "", 16_000, 1))
            offset += samples
        file.truncate(4 * offset)
    made = Preparation(
        format_version=FORMAT_VERSION,
        name="noise",
        corpus="manifest",
        labels=LABELS,
        label_set="",
        source="",
        manifest="",
        fingerprint="",
        manifest_hash="",
        utterances=len(utterances),
        skipped=0,
        doubtful=0,
        program_version="",
    )
    return PreparedCorpus(folder, made, tuple(utterances), tuple(audio))
