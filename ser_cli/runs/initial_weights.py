"""Which pre-trained weights the folds of a run started from: the same in each, or their scores are of no one model."""

from collections.abc import Iterable, Mapping
from typing import Any

from ser_cli.runs.directory import Run

FACT = "pretrained_sha256"
"""In a fold's `done.json`: SHA-256 of the pre-trained weights that it started from, by the setting that names them."""


def weights_of_folds(run: Run, folds: Iterable[int]) -> dict[int, dict[str, str]]:
    """What folds that are done started from, by their index; nothing for those that an older version trained.

    Raises:
        RunError: a fold's `done.json` is damaged.
    """
    return {index: _told(run.fold(index).facts()) for index in folds}


def differing_weights(weights: Mapping[int, Mapping[str, str]]) -> list[str]:
    """A sentence for each setting that gave other weights to some folds than to others.

    Args:
        weights: SHA-256 by setting, by the index of the fold.
    """
    sentences = []
    for setting in sorted({setting for told in weights.values() for setting in told}):
        folds: dict[str, list[int]] = {}
        for index, told in sorted(weights.items()):
            if setting in told:
                folds.setdefault(told[setting], []).append(index)
        if len(folds) > 1:
            groups = [f"fold {', '.join(map(str, of))} from {digest[:12]}…" for digest, of in folds.items()]
            sentences.append(f"{setting}: the folds started from different weights (SHA-256): {'; '.join(groups)}")
    return sentences


def _told(facts: Mapping[str, Any]) -> dict[str, str]:
    told = facts.get(FACT)
    return {str(setting): str(digest) for setting, digest in told.items()} if isinstance(told, Mapping) else {}
