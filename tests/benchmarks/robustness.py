"""How far UA moves when the same clips come louder, softer, between silences, or with noise and other voices.

`python -m tests.benchmarks robustness --run RUN` hears every fold's model of a run on its validation speakers; with
`--side test`, on those it is tested on. Nothing is trained. All clips of a speaker are changed alike, so that a model
that normalises by speaker hears the changed ones alone. Everything that is drawn comes from one seed and a clip's id.
"""

import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ser_cli.data.audio import SAMPLE_RATE_HZ
from ser_cli.data.manifest import speaker_of
from ser_cli.data.store import AUDIO_DTYPE, AUDIO_NAME, PreparedCorpus
from ser_cli.files import read_table
from ser_cli.metrics import confusion_matrix, score
from ser_cli.preparation.whole_corpus import Choice, open_dataset
from ser_cli.runs.directory import Run

if TYPE_CHECKING:
    from ser_cli.checkpoints import TrainedModel

Waveform = NDArray[np.float32]
"""(samples,) at 16 kHz; changes may take it out of [-1, 1], and nothing is clipped."""

BABBLERS = 6
SNR_DB = 20.0
BLOCK, SILENT_DB = 256, 40.0
"""What is no sound: blocks of 16 ms so far under the loudest one, before the first and behind the last that is."""


@dataclass(frozen=True)
class Change:
    """One way in which a clip may come otherwise."""

    name: str
    limit: float
    """Percentage points of UA that it may cost or bring."""
    apply: Callable[[Waveform, np.random.Generator, Sequence[Sequence[Waveform]]], Waveform]
    """Given a clip, what draws, and the clips of each speaker who may babble."""


@dataclass(frozen=True)
class Row:
    """UA under one change, over all folds that were heard."""

    name: str
    limit: float | None
    """None for the clips as they are."""
    rates: tuple[float, ...]
    """UA of each fold."""
    clean: tuple[float, ...]
    """UA of each fold with the clips as they are."""

    @property
    def change_points(self) -> float:
        """Mean over the folds, in percentage points."""
        return 100 * (fmean(self.rates) - fmean(self.clean))


def louder(gain_db: float) -> Change:
    """Scale by a gain."""
    factor = 10 ** (gain_db / 20)
    return Change(f"{gain_db:+g} dB", 3.0, lambda clip, rng, voices: (factor * clip).astype(AUDIO_DTYPE))


def silence(least_s: float, most_s: float) -> Change:
    """Digital silence at both ends, of lengths drawn apart."""

    def apply(clip: Waveform, rng: np.random.Generator, voices: Sequence[Sequence[Waveform]]) -> Waveform:
        before, after = np.round(SAMPLE_RATE_HZ * rng.uniform(least_s, most_s, 2)).astype(int)
        return np.pad(clip, (before, after))

    length = f"{least_s:g} s" if least_s == most_s else f"{least_s:g} to {most_s:g} s"
    return Change(f"{length} of silence at both ends", 1.0, apply)


def white_noise(snr_db: float) -> Change:
    """Gaussian noise over the whole clip."""

    def apply(clip: Waveform, rng: np.random.Generator, voices: Sequence[Sequence[Waveform]]) -> Waveform:
        return mixed(clip, rng.standard_normal(len(clip)), snr_db)

    return Change(f"white noise, {snr_db:g} dB", 10.0, apply)


def babble(snr_db: float) -> Change:
    """Several voices at once over the whole clip, equally loud, each repeated from a place that is drawn."""

    def apply(clip: Waveform, rng: np.random.Generator, voices: Sequence[Sequence[Waveform]]) -> Waveform:
        total = np.zeros(len(clip))
        for speaker in rng.choice(len(voices), min(BABBLERS, len(voices)), replace=False):
            said = sounding(voices[speaker][rng.integers(len(voices[speaker]))])
            start = rng.integers(len(said))
            total += np.resize(np.roll(said, -start), len(clip)) / np.sqrt(power(said))
        return mixed(clip, total, snr_db)

    return Change(f"babble of {BABBLERS}, {snr_db:g} dB", 10.0, apply)


CHANGES = (
    *(louder(10.0), louder(-10.0)),
    *(silence(1.0, 1.0), silence(0.5, 2.0)),
    *(white_noise(SNR_DB), babble(SNR_DB)),
)


def power(clip: Waveform) -> float:
    """Mean square, in double precision; of silence, of what makes a division by it harmless."""
    return max(float(np.square(clip, dtype=np.float64).mean()), 1e-20)


def sounding(clip: Waveform) -> Waveform:
    """A clip without the silence before and behind it; one that is all silence stays whole."""
    blocks = np.pad(clip, (0, -len(clip) % BLOCK)).reshape(-1, BLOCK)
    level = np.square(blocks, dtype=np.float64).mean(axis=1)
    (loud,) = np.nonzero(level > level.max() * 10 ** (-SILENT_DB / 10))
    return clip[loud[0] * BLOCK : (loud[-1] + 1) * BLOCK] if len(loud) else clip


def mixed(clip: Waveform, noise: NDArray[np.float64], snr_db: float) -> Waveform:
    """A clip with noise of its length; the ratio is that of the clip's sounding part to the whole of the noise."""
    gain = np.sqrt(power(sounding(clip)) / power(noise) / 10 ** (snr_db / 10))  # type: ignore[arg-type]
    return (clip + gain * noise).astype(AUDIO_DTYPE)


def changed_corpus(
    corpus: PreparedCorpus, ids: Sequence[str], change: Change, voices: Sequence[str], folder: Path, seed: int
) -> PreparedCorpus:
    """All clips of the speakers of some clips, changed, as a corpus of its own.

    Args:
        corpus: where they are stored.
        ids: whose speakers are meant.
        change: what is done to each clip.
        voices: ids of the clips that may babble.
        folder: for the changed waveforms.
        seed: of what is drawn.
    """
    speakers = {speaker_of(corpus.by_id[identity]) for identity in ids}
    by_speaker: dict[tuple[str, str], list[Waveform]] = {}
    for identity in voices:
        by_speaker.setdefault(speaker_of(corpus.by_id[identity]), []).append(corpus.waveform(identity))
    heard = [by_speaker[speaker] for speaker in sorted(by_speaker)]
    kept, offset = [], 0
    with (folder / AUDIO_NAME).open("wb") as file:
        for utterance, audio in zip(corpus.utterances, corpus.audio, strict=True):
            if speaker_of(utterance) not in speakers:
                continue
            rng = np.random.default_rng([seed, zlib.crc32(utterance.id.encode())])
            clip = change.apply(corpus.waveform(utterance.id), rng, heard)
            file.write(clip.astype(AUDIO_DTYPE).tobytes())
            kept.append((utterance, replace(audio, offset=offset, samples=len(clip), sha256="")))
            offset += len(clip)
    return replace(
        corpus,
        folder=folder,
        utterances=tuple(u for u, _ in kept),
        audio=tuple(a for _, a in kept),
        soft_labels=None,
        audio_state=(),
    )


def rates_of_fold(
    trained: "TrainedModel", corpus: PreparedCorpus, ids: Sequence[str], voices: Sequence[str], *, seed: int = 0
) -> dict[str, float]:
    """UA of one model by the name of each change; `clean` with the clips as they are.

    Args:
        trained: the model.
        corpus: with the labels of the model.
        ids: the clips to be classified.
        voices: ids of the clips that may babble.
        seed: of what is drawn.
    """
    rates = {"clean": _ua(trained, corpus, ids)}
    for change in CHANGES:
        with tempfile.TemporaryDirectory() as folder:
            rates[change.name] = _ua(trained, changed_corpus(corpus, ids, change, voices, Path(folder), seed), ids)
    return rates


def _ua(trained: "TrainedModel", corpus: PreparedCorpus, ids: Sequence[str]) -> float:
    from ser_cli.inference import classify_stored

    settings = trained.recipe.training
    probabilities = classify_stored(
        trained.model,
        corpus,
        ids,
        settings.batch_size,
        max_clip_s=settings.max_clip_s,
        max_batch_s=settings.max_batch_s,
    )
    truth = [corpus.by_id[identity].emotion for identity in ids]
    predicted = [trained.labels[row] for row in probabilities.argmax(axis=1)]
    lacking = sorted(set(trained.labels) - set(truth))
    return score(confusion_matrix(truth, predicted, trained.labels), trained.labels, lacking).ua


def sides_of(run: Run) -> dict[int, dict[str, list[str]]]:
    """Ids by fold and side, of the folds that are done."""
    _, rows = read_table(run.folds_path)
    sides: dict[int, dict[str, list[str]]] = {index: {} for index in run.done_folds()}
    for row in rows:
        if (fold := int(row["fold"])) in sides:
            sides[fold].setdefault(row["side"], []).append(row["id"])
    return sides


def measure_run(folder: Path, side: str = "validation", *, seed: int = 0) -> tuple[list[Row], list[str]]:
    """A row for each change, and a sentence for each fold that could not be heard.

    Args:
        folder: of the run.
        side: of each fold, `validation` or `test`.
        seed: of what is drawn.
    """
    from ser_cli.checkpoints import load_model

    run = Run(folder)
    identity = run.identity()
    choice = Choice(identity.label_set or None, identity.where)
    corpus = open_dataset(identity.dataset, None, choice, may_prepare=False)
    found: list[Mapping[str, float]] = []
    sentences = []
    for index, sides in sides_of(run).items():
        if not sides.get(side):
            sentences.append(f"Fold {index} has no {side} side and is left out.")
            continue
        trained = load_model(run.fold(index).folder)
        found.append(rates_of_fold(trained, corpus, sides[side], sides["train"], seed=seed))
    return list(_rows(found)), sentences


def _rows(found: Sequence[Mapping[str, float]]) -> Iterator[Row]:
    if not found:
        return
    limits = {"clean": None, **{change.name: change.limit for change in CHANGES}}
    clean = tuple(rates["clean"] for rates in found)
    for name, limit in limits.items():
        yield Row(name, limit, tuple(rates[name] for rates in found), clean)


def as_table(rows: Sequence[Row]) -> str:
    """The rows in Markdown, UA in per cent and changes in percentage points."""
    lines = ["| condition | UA % | change | of single folds | wanted |", "|---|---:|---:|---|---|"]
    for row in rows:
        shown = ("", "", "")
        if row.limit is not None:
            each = [100 * (changed - clean) for changed, clean in zip(row.rates, row.clean, strict=True)]
            told = ", ".join(f"{points:+.1f}" for points in each)
            shown = (f"{row.change_points:+.1f}", told, f"below {row.limit:g}")
        lines.append("| " + " | ".join((row.name, f"{100 * fmean(row.rates):.1f}", *shown)) + " |")
    return "\n".join(lines)
