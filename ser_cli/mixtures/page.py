"""The page to listen to mixtures and look at them: one file that needs nothing else."""

import base64
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ser_cli.console import visible
from ser_cli.data.audio import SAMPLE_RATE_HZ
from ser_cli.data.store import PreparedCorpus
from ser_cli.files import write_atomically
from ser_cli.mixtures.output_folder import PAGE_NAME
from ser_cli.mixtures.writing import MixedClip, describe, encode_flac, render

SHOWN_MIXTURES = 50
"""Mixtures with players and pictures; each holds three clips, so that more would make a page too large to open."""

WAVEFORM_POINTS = 300
SPECTROGRAM_COLUMNS = 260
FFT_SIZE = 512
"""32 ms; 257 bands from 0 to 8 kHz."""
RANGE_DB = 80.0
"""From the loudest point of a card down to black."""


SCRIPT = """
  // One clip sounds at a time.
  const players = [...document.querySelectorAll("audio")];
  for (const player of players) {
    player.addEventListener("play", () => { for (const other of players) if (other !== player) other.pause(); });
  }
"""


@dataclass(frozen=True)
class _Sound:
    """One clip of a card."""

    kind: str
    """`a`, `b` or `mix`; colours it."""
    role: str
    title: str
    waveform: NDArray[np.float32]
    region: tuple[int, int]
    """Start and length of the overlap, in samples."""


def write_page(corpus: PreparedCorpus, clips: Sequence[MixedClip], folder: Path) -> None:
    """Write `index.html`.

    Args:
        corpus: where the sources are.
        clips: the mixtures that were written.
        folder: of the mixtures.
    """
    from jinja2 import Environment, PackageLoader
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("ser_cli", "templates"), autoescape=True, trim_blocks=True, finalize=_seen
    )
    shown = clips[:SHOWN_MIXTURES]
    text = environment.get_template("mix.html.j2").render(
        script=Markup(SCRIPT),
        # The page runs this script and no other, whatever a name might smuggle in.
        script_hash=f"sha256-{base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()}",
        title=f"Mixtures of {corpus.name}",
        summary=f"{describe(clips)}.",
        hidden=len(clips) - len(shown),
        cards=[_card(corpus, clip) for clip in shown],
    )
    write_atomically(folder / PAGE_NAME, text.encode("utf-8", "backslashreplace"))


def _seen(value: object) -> object:
    """Control characters are shown, since HTML has none."""
    return visible(value) if type(value) is str else value


def _card(corpus: PreparedCorpus, clip: MixedClip) -> dict[str, object]:
    plan = clip.plan
    a, b = corpus.by_id[plan.dominant], corpus.by_id[plan.interfering]
    mixture, _ = render(corpus, plan)
    sounds = [
        _Sound("a", "first", a.id, corpus.waveform(a.id), (plan.dominant_start, plan.length)),
        _Sound("b", "second", b.id, corpus.waveform(b.id), (plan.interfering_start, plan.length)),
        _Sound("mix", "mixed", clip.file_name, mixture.waveform, (plan.dominant_start, plan.length)),
    ]
    spectra = [_spectrum_db(sound.waveform) for sound in sounds]
    loudest = max(float(spectrum.max()) for spectrum in spectra)
    peak = max(float(np.abs(sound.waveform).max()) for sound in sounds)
    asked = [("SNR asked for", f"{plan.snr_db:.2f} dB")] if plan.method == "eam" else []
    label = sorted(zip(corpus.labels, clip.target, strict=True), key=lambda item: -item[1])
    return {
        "name": Path(clip.file_name).stem,
        "emotion_a": a.emotion,
        "emotion_b": b.emotion,
        "facts": [
            ("λ", f"{clip.weight:.3f}"),
            *asked,
            ("SNR measured", f"{clip.snr_measured_db:.2f} dB"),
            ("overlap", f"{plan.length / SAMPLE_RATE_HZ:.2f} s"),
            ("gain", f"{clip.gain_db:.2f} dB"),
            ("speakers", f"{a.speaker} + {b.speaker}"),
        ],
        "clips": [
            {
                "kind": sound.kind,
                "role": sound.role,
                "title": sound.title,
                "audio": _data_uri("audio/flac", encode_flac(np.clip(sound.waveform, -1, 1))),
                "points": WAVEFORM_POINTS,
                "path": _envelope(sound.waveform / peak),
                "region": [round(WAVEFORM_POINTS * n / len(sound.waveform), 2) for n in sound.region],
                "spectrogram": _data_uri("image/png", _picture(spectrum, loudest)),
            }
            for sound, spectrum in zip(sounds, spectra, strict=True)
        ],
        "label": [(name, share) for name, share in label if share > 0],
        "label_text": ", ".join(f"{name} {share:.3f}" for name, share in label if share > 0),
    }


def _envelope(waveform: NDArray[np.float32]) -> str:
    """The outline of a waveform as an SVG path: highest and lowest sample of each of `WAVEFORM_POINTS` stretches."""
    parts = np.array_split(np.clip(waveform, -1, 1), WAVEFORM_POINTS)
    # A line that is never thinner than a hair, so that silence is seen too.
    upper = [50 - 50 * max(float(part.max(initial=-1)), 0.004) for part in parts]
    lower = [50 - 50 * min(float(part.min(initial=1)), -0.004) for part in parts]
    there = [f"{x} {y:.1f}" for x, y in enumerate(upper)]
    back = [f"{x} {y:.1f}" for x, y in reversed(list(enumerate(lower)))]
    return "M" + " L".join([*there, *back]) + "Z"


def _spectrum_db(waveform: NDArray[np.float32]) -> NDArray[np.float64]:
    """(bands, columns) power in decibels, low bands first."""
    padded = np.pad(waveform.astype(np.float64), FFT_SIZE // 2)
    starts = np.linspace(0, len(padded) - FFT_SIZE, SPECTROGRAM_COLUMNS).astype(int)
    frames = np.stack([padded[start : start + FFT_SIZE] for start in starts]) * np.hanning(FFT_SIZE)
    power = np.square(np.abs(np.fft.rfft(frames, axis=1)))
    return 10 * np.log10(power.T + 1e-12)


def _picture(spectrum: NDArray[np.float64], loudest: float) -> bytes:
    """A spectrogram as PNG, low bands at the bottom."""
    from matplotlib import image

    content = io.BytesIO()
    image.imsave(content, spectrum[::-2], cmap="magma", vmin=loudest - RANGE_DB, vmax=loudest, format="png")
    return content.getvalue()


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
