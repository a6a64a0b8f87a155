"""Files that were whole recordings: bits flipped, parts cut off, headers that lie. Seeded, each with its recipe."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import soundfile

RIFF_FIELDS = {
    "RIFF size": (4, "<I"),
    "fmt size": (16, "<I"),
    "format": (20, "<H"),
    "channels": (22, "<H"),
    "rate": (24, "<I"),
    "byte rate": (28, "<I"),
    "block align": (32, "<H"),
    "bit depth": (34, "<H"),
}
"""Where a WAV file's header says what, and how it is written; of the data chunk see `_data_size_at`."""

LIES = {
    "<H": (0, 1, 2, 3, 6, 7, 8, 16, 17, 24, 32, 64, 255, 1024, 1025, 32768, 65534, 65535),
    "<I": (0, 1, 2, 7, 999, 1000, 8000, 96_000, 10**6, 10**6 + 1, 0x7FFFFFFF, 0x80000000, 4 * 10**9, 0xFFFFFFFF),
}

STREAMINFO_FIELDS = {
    "min block": (0, 16),
    "max block": (16, 16),
    "min frame": (32, 24),
    "max frame": (56, 24),
    "rate": (80, 20),
    "channels": (100, 3),
    "bit depth": (103, 5),
    "total samples": (108, 36),
    "MD5": (144, 128),
}
"""Of FLAC: first bit and bits, behind `fLaC` and the header of the first block, 8 bytes in all (RFC 9639, 8.2)."""


HEADER_BYTES = 96
"""Where most that a program believes stands."""


@dataclass(frozen=True)
class Mutant:
    """A file that once was a recording."""

    name: str
    recipe: str
    """What was done to which recording."""
    content: bytes


def write_bases(folder: Path) -> dict[str, bytes]:
    """Half a second of two tones and noise in every format that is cheap to write, by name."""
    folder.mkdir(parents=True)
    kinds = {
        "pcm16.wav": (16_000, 1, "PCM_16"),
        "pcm24.wav": (48_000, 2, "PCM_24"),
        "float.wav": (44_100, 1, "FLOAT"),
        "double.wav": (16_000, 1, "DOUBLE"),
        "ulaw.wav": (8_000, 1, "ULAW"),
        "adpcm.wav": (16_000, 1, "MS_ADPCM"),
        "a.flac": (16_000, 1, "PCM_16"),
        "stereo.flac": (48_000, 2, "PCM_24"),
        "a.mp3": (22_050, 1, None),
        "a.ogg": (16_000, 1, None),
        "a.aiff": (16_000, 1, "PCM_16"),
        "a.au": (16_000, 1, "PCM_16"),
    }
    for name, (rate, channels, subtype) in kinds.items():
        soundfile.write(folder / name, _sound(rate, channels), rate, subtype=subtype)
    for name in ("a.m4a", "a.webm"):
        _write_with_ffmpeg(folder / name, "libopus" if name.endswith("webm") else "aac")
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def _sound(rate: int, channels: int) -> np.ndarray:
    time = np.arange(rate // 2) / rate
    noise = np.random.default_rng(0).normal(0, 0.02, (len(time), channels))
    return 0.3 * np.sin(2 * np.pi * 220 * time)[:, None] + 0.1 * np.sin(2 * np.pi * 1700 * time)[:, None] + noise


def _write_with_ffmpeg(path: Path, codec: str) -> None:
    frame = av.AudioFrame.from_ndarray(_sound(48_000, 1).T.astype(np.float32), format="flt", layout="mono")
    frame.sample_rate = 48_000
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=48_000, layout="mono")
        resampler = av.AudioResampler(format=stream.format, layout="mono", rate=48_000, frame_size=960)
        for part in [*resampler.resample(frame), None]:
            for packet in stream.encode(part):
                container.mux(packet)


def make_mutants(bases: dict[str, bytes], number: int, seed: int) -> Iterator[Mutant]:
    """Every lie in every field of the headers first, then chance, until there are so many.

    Args:
        bases: whole recordings, by name.
        number: of mutants.
        seed: of chance. The n-th mutant of equal bases is always the same.
    """
    made = 0
    for name, content in bases.items():
        for what, mutated in _lying_headers(name, content):
            if made < number // 2:
                yield Mutant(f"{made:04d}-{name}", f"{name}: {what}", mutated)
                made += 1
    names = list(bases)
    while made < number:
        rng = np.random.default_rng([seed, made])
        name = names[made % len(names)]
        what, mutated = _by_chance(bases[name], bases[names[int(rng.integers(len(names)))]], rng)
        yield Mutant(f"{made:04d}-{name}", f"{name}, seed [{seed}, {made}]: {what}", mutated)
        made += 1


def _lying_headers(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    """Each field of the header with each lie."""
    if name.endswith(".flac"):
        yield from _lying_streaminfo(content)
    if not name.endswith(".wav"):
        return
    fields = RIFF_FIELDS | {"data size": (_data_size_at(content), "<I")}
    for field, (offset, form) in fields.items():
        for lie in LIES[form]:
            told = struct.pack(form, lie)
            yield f"{field} = {lie}", content[:offset] + told + content[offset + len(told) :]
    start = _data_size_at(content) - 4
    for identity, size in ((b"LIST", 0xFFFFFFFF), (b"junk", 0), (b"RIFF", 8), (b"data", 0), (b"fmt ", 16)):
        chunk = identity + struct.pack("<I", size) + b"\xff" * min(size, 16)
        yield f"a chunk {identity!r} of {size} bytes before the data", content[:start] + chunk + content[start:]
    yield "a thousand empty chunks before the data", content[:start] + b"junk\0\0\0\0" * 1000 + content[start:]
    if name.startswith(("float", "double")):
        form = "<f" if name.startswith("float") else "<d"
        largest = 3e38 if form == "<f" else 1e300
        for value in (
            float("nan"),
            float("inf"),
            -float("inf"),
            largest,
            1e12,
            1e-30,
            5e-324 if form == "<d" else 1e-45,
        ):
            told = struct.pack(form, value)
            at = start + 8 + len(told) * 200
            yield f"sample 200 = {value}", content[:at] + told + content[at + len(told) :]
            yield f"every sample = {value}", content[: start + 8] + told * ((len(content) - start - 8) // len(told))


def _data_size_at(content: bytes) -> int:
    return content.index(b"data") + 4


def _lying_streaminfo(content: bytes) -> Iterator[tuple[str, bytes]]:
    block = int.from_bytes(content[8:42], "big")
    for field, (first, bits) in STREAMINFO_FIELDS.items():
        for lie in sorted({0, 1, 15, 2 ** (bits - 1), 2**bits - 2, 2**bits - 1}):
            if lie < 2**bits:
                shift = 34 * 8 - first - bits
                told = block & ~((2**bits - 1) << shift) | lie << shift
                yield f"{field} = {lie}", content[:8] + told.to_bytes(34, "big") + content[42:]
    for kind in (0, 1, 3, 4, 6, 0x7F, 0x80, 0x86, 0xFF):
        yield f"first block is of kind {kind}", content[:4] + bytes([kind]) + content[5:]
    for size in (0, 1, 33, 35, 0xFFFF, 0xFFFFFF):
        yield f"first block has {size} bytes", content[:5] + size.to_bytes(3, "big") + content[8:]


def _by_chance(content: bytes, other: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """One of some ways to spoil a file.

    Args:
        content: of the file.
        other: of another file.
        rng: chooses the way and the place.
    """
    start = int(rng.integers(len(content)))
    end = min(len(content), start + 2 ** int(rng.integers(1, 13)))
    before, within, after = content[:start], content[start:end], content[end:]
    fill = [b"\0", b"\xff", b"\x80"][int(rng.integers(3))]
    ways = [
        lambda: _flip_bits(content, HEADER_BYTES, rng),
        lambda: _flip_bits(content, len(content), rng),
        lambda: _overwrite_number(content, rng),
        lambda: (f"cut off after {start % HEADER_BYTES} bytes", content[: start % HEADER_BYTES]),
        lambda: (f"cut off after {start} bytes", before),
        lambda: (f"bytes {start} to {end} = {fill!r}", before + fill * len(within) + after),
        lambda: (f"bytes {start} to {end} at random", before + rng.bytes(len(within)) + after),
        lambda: (f"bytes {start} to {end} taken out", before + after),
        lambda: (f"bytes {start} to {end} repeated", before + within + within + after),
        lambda: (f"goes on as another file at {start}", before + other[min(start, len(other)) :]),
    ]
    return ways[int(rng.integers(len(ways)))]()


def _flip_bits(content: bytes, area: int, rng: np.random.Generator) -> tuple[str, bytes]:
    """Up to 20 bits in the first bytes of a file."""
    places = sorted(map(int, rng.integers(0, 8 * min(area, len(content)), int(rng.integers(1, 21)))))
    spoilt = bytearray(content)
    for place in places:
        spoilt[place // 8] ^= 1 << place % 8
    return f"bits {places} flipped", bytes(spoilt)


def _overwrite_number(content: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """A number of 32 bits in the header."""
    place = int(rng.integers(0, HEADER_BYTES - 4))
    lie = int(rng.choice([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 65535, 65535 << 16]))
    order = "<I" if rng.integers(2) else ">I"
    return f"{order} at {place} = {lie}", content[:place] + struct.pack(order, lie) + content[place + 4 :]
