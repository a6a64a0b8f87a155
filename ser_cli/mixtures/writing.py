"""Write mixtures of clips, for people to hear and for training, with all that there is to tell of them.

OUTPUT/
audio/mix-0001.flac …   the mixtures, 16 kHz mono, 16-bit
metadata.csv            what each is made of, and its soft label; read by datasets' "audiofolder"
plan.csv                the choices alone, to the sample: `ser mix --plan` makes the same bytes of them
index.html              players and pictures of the first mixtures
originals/ manifest.csv where asked for: the clips themselves, and all of it as a corpus to train on
"""

import csv
import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ser_cli.data import votes
from ser_cli.data.audio import SAMPLE_RATE_HZ
from ser_cli.data.folds import ALSO
from ser_cli.data.manifest import SOURCE_A, SOURCE_B, Utterance
from ser_cli.data.mixup import MixPlan, Mixture, mix, mix_targets
from ser_cli.data.selection import value_of
from ser_cli.data.store import PreparedCorpus
from ser_cli.errors import UsageError, count_of
from ser_cli.files import write_atomically
from ser_cli.mixtures.output_folder import (
    AUDIO,
    MANIFEST_NAME,
    METADATA_NAME,
    ORIGINALS,
    PLAN_NAME,
    building,
    files_beside,
    require_free,
)

FULL_SCALE = 0.999
"""Where the peak of a mixture that would clip is brought to; the gain is recorded."""

Progress = Callable[[int, int], None]
"""Told how many of how many mixtures are written."""


@dataclass(frozen=True)
class MixedClip:
    """One mixture that was written."""

    file_name: str
    """Relative to the output folder."""
    plan: MixPlan
    weight: float
    """Of the interfering clip's label: lambda."""
    snr_measured_db: float
    gain_db: float
    """What the whole mixture was multiplied with so that it does not clip; 0 where its peak was below 1."""
    samples: int
    target: tuple[float, ...]
    """The soft label, in the order of the corpus's labels."""


class Written(NamedTuple):
    """What lies in a folder of mixtures."""

    clips: tuple[MixedClip, ...]
    originals_lowered: int
    """Clips beside them that exceed full scale, as floats may, and were lowered."""


def write_mixtures(
    corpus: PreparedCorpus,
    plans: Sequence[MixPlan],
    output: Path,
    *,
    originals: Sequence[str] = (),
    force: bool = False,
    finish: Callable[[Path, Sequence[MixedClip]], None] | None = None,
    progress: Progress | None = None,
) -> Written:
    """Write mixtures with their metadata, all of them or none; see `output_folder.building`.

    Args:
        corpus: where the clips are.
        plans: what to mix.
        output: a new or empty folder; what lies beside old mixtures stays.
        originals: ids to write beside the mixtures, with a manifest of everything; empty for none.
        force: replace mixtures that an earlier call left there.
        finish: called with the folder that is being built, for what else belongs into it.
        progress: told how it goes on.

    Raises:
        UsageError: the folder holds something, or labels cannot be written as votes.
        SerError: the folder cannot be written.
    """
    beside = files_beside(originals=bool(originals), page=finish is not None)
    require_free(output, force=force, writing=beside)
    with building(output) as folder:
        (folder / AUDIO).mkdir()
        clips = tuple(_write_all(corpus, plans, folder, progress))
        write_atomically(folder / METADATA_NAME, _as_csv(_metadata_rows(corpus, clips)))
        write_atomically(folder / PLAN_NAME, _as_csv([asdict(plan) for plan in plans]))
        lowered = 0
        if originals:
            (folder / ORIGINALS).mkdir()
            lowered = _write_originals(corpus, originals, folder)
            rows = [*_original_rows(corpus, originals), *_manifest_rows(corpus, clips)]
            write_atomically(folder / MANIFEST_NAME, _as_csv(rows))
        if finish:
            finish(folder, clips)
    return Written(clips, lowered)


def render(corpus: PreparedCorpus, plan: MixPlan) -> tuple[Mixture, float]:
    """Mix by a plan, and bring the peak below full scale where it would clip.

    Returns:
        The mixture as it is written, and the gain in decibels that it was multiplied with.
    """
    mixture = mix(plan, corpus.waveform(plan.dominant), corpus.waveform(plan.interfering))
    waveform, gain_db = _below_full_scale(mixture.waveform)
    return mixture._replace(waveform=waveform), gain_db


def _below_full_scale(waveform: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """A waveform that does not clip, lowered as a whole where it would, and the gain in decibels."""
    peak = float(np.abs(waveform).max())
    if peak <= 1:
        return waveform, 0.0
    gain = FULL_SCALE / peak
    return waveform * np.float32(gain), float(20 * np.log10(gain))


def _write_all(
    corpus: PreparedCorpus, plans: Sequence[MixPlan], folder: Path, progress: Progress | None
) -> Iterator[MixedClip]:
    """Mix and encode on all cores, in order."""
    digits = max(4, len(str(len(plans))))

    def write(numbered: tuple[int, MixPlan]) -> MixedClip:
        number, plan = numbered
        mixture, gain_db = render(corpus, plan)
        name = f"{AUDIO}/mix-{number:0{digits}d}.flac"
        (folder / name).write_bytes(encode_flac(mixture.waveform))
        target = mix_targets(corpus.target(plan.dominant), corpus.target(plan.interfering), mixture.weight)
        return MixedClip(
            name, plan, mixture.weight, mixture.snr_db, gain_db, len(mixture.waveform), tuple(map(float, target))
        )

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for done, clip in enumerate(pool.map(write, enumerate(plans, start=1)), start=1):
            yield clip
            if progress and (done % 16 == 0 or done == len(plans)):
                progress(done, len(plans))


def encode_flac(waveform: NDArray[np.float32]) -> bytes:
    """A waveform in [-1, 1] as FLAC, 16-bit."""
    import soundfile

    content = io.BytesIO()
    soundfile.write(content, waveform, SAMPLE_RATE_HZ, subtype="PCM_16", format="FLAC")
    return content.getvalue()


def _metadata_rows(corpus: PreparedCorpus, clips: Sequence[MixedClip]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for clip in clips:
        plan = clip.plan
        a, b = corpus.by_id[plan.dominant], corpus.by_id[plan.interfering]
        row: dict[str, object] = {
            "file_name": clip.file_name,
            SOURCE_A: a.id,
            SOURCE_B: b.id,
            "start_a_s": plan.dominant_start / SAMPLE_RATE_HZ,
            "start_b_s": plan.interfering_start / SAMPLE_RATE_HZ,
            "length_s": plan.length / SAMPLE_RATE_HZ,
            "snr_db": round(plan.snr_db, 4) if plan.method == "eam" else "",
            "snr_measured_db": round(clip.snr_measured_db, 4),
            "lambda": round(clip.weight, 6),
            "gain_db": round(clip.gain_db, 4),
            "duration_s": clip.samples / SAMPLE_RATE_HZ,
            "method": plan.method,
        }
        for letter, source in (("a", a), ("b", b)):
            row |= {f"emotion_{letter}": source.emotion, f"speaker_{letter}": source.speaker}
        targets = zip(corpus.labels, clip.target, strict=True)
        rows.append(row | {f"target_{label}": round(value, 6) for label, value in targets})
    return rows


def _manifest_rows(corpus: PreparedCorpus, clips: Sequence[MixedClip]) -> list[dict[str, object]]:
    """The mixtures as a manifest that `ser train` reads; who else is heard keeps them out of that one's folds."""
    rows = []
    for clip in clips:
        a, b = corpus.by_id[clip.plan.dominant], corpus.by_id[clip.plan.interfering]
        row = _row_of(a, clip.file_name, Path(clip.file_name).stem)
        row["emotion"] = corpus.labels[int(np.argmax(clip.target))]
        row[votes.COLUMN] = _as_votes(corpus, clip.target)
        row |= {SOURCE_A: a.id, SOURCE_B: b.id}
        row |= {ALSO + what: value_of(b, what) for what in ("speaker", "session", "dialog")}
        rows.append(row)
    return rows


def _original_rows(corpus: PreparedCorpus, ids: Sequence[str]) -> list[dict[str, object]]:
    rows = []
    for number, identity in enumerate(ids, start=1):
        row = _row_of(corpus.by_id[identity], f"{ORIGINALS}/{number:06d}.flac", identity)
        row[votes.COLUMN] = _as_votes(corpus, corpus.target(identity))
        empty = (SOURCE_A, SOURCE_B, *(ALSO + what for what in ("speaker", "session", "dialog")))
        rows.append(row | dict.fromkeys(empty, ""))
    return rows


def _row_of(utterance: Utterance, path: str, identity: str) -> dict[str, object]:
    columns = ("emotion", "speaker", "session", "gender", "text")
    row: dict[str, object] = {"id": identity, "path": path}
    row |= {column: getattr(utterance, column) for column in columns}
    return row | {"dialog": value_of(utterance, "dialog")}


def _as_votes(corpus: PreparedCorpus, target: Sequence[float] | NDArray[np.float32]) -> str:
    strange = next((label for label in corpus.labels if not label or any(c.isspace() for c in label)), None)
    if strange is not None:
        raise UsageError(f"label {strange!r} holds a space, so its share cannot be written as votes; rename it")
    shares = {label: float(value) for label, value in zip(corpus.labels, target, strict=True) if value > 0}
    return votes.format_votes(shares)


def _write_originals(corpus: PreparedCorpus, ids: Sequence[str], folder: Path) -> int:
    """Write clips as they are, and return how many exceeded full scale and were lowered."""

    def write(numbered: tuple[int, str]) -> bool:
        number, identity = numbered
        waveform, gain_db = _below_full_scale(corpus.waveform(identity))
        (folder / f"{ORIGINALS}/{number:06d}.flac").write_bytes(encode_flac(waveform))
        return gain_db < 0

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return sum(pool.map(write, enumerate(ids, start=1)))


def _as_csv(rows: Sequence[dict[str, object]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def describe(clips: Sequence[MixedClip]) -> str:
    """One sentence on what was written."""
    lowered = sum(clip.gain_db < 0 for clip in clips)
    silent = sum(clip.weight == 0 for clip in clips if clip.plan.method == "eam")
    seconds = sum(clip.samples for clip in clips) / SAMPLE_RATE_HZ
    text = f"{count_of(len(clips), 'mixture')} by {clips[0].plan.method}, {seconds:.1f} s"
    if lowered:
        text += f"; {lowered:,} would have clipped and were lowered as a whole, by gain_db"
    if silent:
        text += f"; in {silent:,} a segment is silent, so nothing was mixed and lambda is 0"
    return text
