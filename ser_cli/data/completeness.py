"""What a complete corpus holds against what was found: the report that `ser prepare` shows and keeps."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ser_cli.corpora.corpus import ExpectedCounts, LabelSet
from ser_cli.data.manifest import Utterance, total_hours
from ser_cli.data.store import StoredAudio

SHOWN_MISSING = 10
"""Missing ids that the report names; all of them stand in a file beside it."""

SHOWN_OUTLIERS = 3
"""Longest clips that are named, and most clips of a format that still count as outliers."""

DURATION_EDGES_S = (0, 1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 60)
"""Lower bounds of the histogram's bins; the last one is open."""


def identical_recordings(utterances: Sequence[Utterance], audio: Mapping[str, StoredAudio]) -> list[tuple[str, ...]]:
    """Ids of recordings whose decoded samples are the same, group by group, sorted."""
    groups: dict[str, list[str]] = defaultdict(list)
    for utterance in utterances:
        groups[audio[utterance.id].sha256].append(utterance.id)
    return sorted(tuple(sorted(ids)) for ids in groups.values() if len(ids) > 1)


def conflicting(group: Sequence[Utterance]) -> str:
    """What tells identical recordings apart that cannot be: their speaker or emotion; empty where they agree."""
    for what in ("speaker", "emotion"):
        values = sorted({str(getattr(utterance, what)) for utterance in group})
        if len(values) > 1:
            return f"{what} {' and '.join(values)}"
    return ""


def describe_completeness(
    utterances: Sequence[Utterance],
    audio: Sequence[StoredAudio],
    *,
    counts: ExpectedCounts | None,
    label_sets: Sequence[LabelSet],
    missing: Sequence[str],
    skipped: Sequence[tuple[str, str]],
    doubtful: Sequence[tuple[str, str]],
    notes: Sequence[str],
) -> dict[str, Any]:
    """Build the report.

    Args:
        utterances: those that were prepared.
        audio: theirs, in their order.
        counts: what a complete corpus holds; None where nobody counted.
        label_sets: the corpus's named choices, the standard one first.
        missing: ids that are known to be missing.
        skipped: path and reason of each recording that could not be used.
        doubtful: path and reason of each file whose identity is in doubt.
        notes: what was left out on purpose.

    Returns:
        What `report.json` holds, ready for JSON.
    """
    by_id = {entry.id: entry for entry in audio}
    emotions = Counter(utterance.emotion for utterance in utterances)
    expected = counts.utterances if counts else None
    return {
        "utterances": len(utterances),
        "expected": expected,
        "expected_source": counts.source if counts else "",
        "missing": max(0, (expected or 0) - len(utterances)),
        "extra": max(0, len(utterances) - expected) if expected is not None else 0,
        "missing_ids": list(missing[:SHOWN_MISSING]),
        "missing_ids_known": len(missing),
        "emotion": _found_and_expected(emotions, counts.emotion if counts else {}),
        "session": _found_and_expected(_count(utterances, lambda u: u.session), counts.session if counts else {}),
        "speaker": _found_and_expected(_count(utterances, lambda u: u.speaker), counts.speaker if counts else {}),
        "gender": dict(sorted(_count(utterances, lambda u: u.gender or "unknown").items())),
        "label_sets": {
            chosen.name: {label: sum(emotions[e] for e in own) for label, own in chosen.merged.items()}
            for chosen in label_sets
        },
        "label_sources": {chosen.name: chosen.source for chosen in label_sets},
        "duration": _durations(utterances),
        "sample_rates": {str(rate): n for rate, n in sorted(Counter(a.source_rate_hz for a in audio).items())},
        "channels": {str(number): n for number, n in sorted(Counter(a.source_channels for a in audio).items())},
        "identical": [list(group) for group in identical_recordings(utterances, by_id)],
        "longest": _longest(utterances),
        "rare_formats": _rare_formats(audio),
        "skipped": len(skipped),
        "doubtful": len(doubtful),
        "skipped_files": [{"path": path, "reason": reason} for path, reason in skipped],
        "doubtful_files": [{"path": path, "reason": reason} for path, reason in doubtful],
        "notes": list(notes),
    }


def _count(utterances: Sequence[Utterance], key: Callable[[Utterance], str]) -> Counter[str]:
    return Counter(value for value in map(key, utterances) if value)


def _found_and_expected(
    found: Mapping[str, int], expected: Mapping[str, int | None]
) -> dict[str, dict[str, int | None]]:
    """Found and expected number of each name, sorted; expected is None where no table tells."""
    return {
        name: {"found": found.get(name, 0), "expected": expected.get(name, 0) if expected else None}
        for name in sorted({*found, *expected})
    }


def _longest(utterances: Sequence[Utterance]) -> list[dict[str, Any]]:
    ordered = sorted(utterances, key=lambda utterance: (-utterance.duration_s, utterance.id))
    return [{"id": u.id, "duration_s": round(u.duration_s, 3)} for u in ordered[:SHOWN_OUTLIERS]]


def _rare_formats(audio: Sequence[StoredAudio]) -> list[dict[str, Any]]:
    """Clips whose rate or number of channels few others share, where most agree."""
    formats = Counter((entry.source_rate_hz, entry.source_channels) for entry in audio)
    rare = [
        {"id": entry.id, "sample_rate_hz": entry.source_rate_hz, "channels": entry.source_channels}
        for entry in audio
        if formats[entry.source_rate_hz, entry.source_channels] <= min(SHOWN_OUTLIERS, len(audio) // 4)
    ]
    return rare[:SHOWN_MISSING]


def _durations(utterances: Sequence[Utterance]) -> dict[str, Any]:
    seconds = np.array([utterance.duration_s for utterance in utterances])
    edges = [*DURATION_EDGES_S, np.inf]
    clips, _ = np.histogram(seconds, edges)
    return {
        "hours": round(total_hours(utterances), 4),
        "min_s": round(float(seconds.min()), 3),
        "mean_s": round(float(seconds.mean()), 3),
        "median_s": round(float(np.median(seconds)), 3),
        "p95_s": round(float(np.percentile(seconds, 95)), 3),
        "max_s": round(float(seconds.max()), 3),
        "histogram": [
            {"from_s": low, "to_s": None if np.isinf(high) else high, "clips": int(number)}
            for low, high, number in zip(edges[:-1], edges[1:], clips, strict=True)
        ],
    }
