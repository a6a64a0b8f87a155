"""Protocols: which speakers, sessions or official parts each fold tests, as named and versioned data with a hash.

The shipped ones lie in `corpora/protocols/NAME.json`, the standard one first; others are dealt by a seed.
"""

import hashlib
import json
import re
from collections import defaultdict
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from ser_cli.data.manifest import UNKNOWN_SPEAKER
from ser_cli.data.selection import value_of
from ser_cli.data.store import PreparedCorpus
from ser_cli.errors import FoldError, UnknownNameError, UsageError, count_of

SEEDED = "seeded"
"""Names the protocol that is dealt from the speakers at hand rather than read from a shipped file."""

SEEDED_SESSIONS = "seeded-sessions"
"""The same, dealt from whole sessions: for dialogues, where a partner is heard in the background."""

DEALT = re.compile(rf"{SEEDED}-(?P<folds>\d+)-of-(?P<groups>\d+)-(?P<unit>speaker|session)s-seed-(?P<seed>\d+)")
"""What a protocol is called that a seed dealt, as `_deal` names it."""

VALIDATION_SHARE = 0.2
"""Of the training clips, where a protocol holds out clips because too few groups are left to hold out one."""

DEFAULT_FOLDS = 5
"""Folds of a corpus without a shipped protocol, where it has that many speakers."""


@dataclass(frozen=True)
class Protocol:
    """Which groups each fold tests, and what becomes of the others."""

    name: str
    version: int
    unit: str
    """Column of the manifest whose values are dealt: `speaker`, `session`, or the `partition` of the publisher."""
    source: str
    """Where the definition comes from."""
    test: tuple[tuple[str, ...], ...]
    """The tested groups of each fold, fold 1 first."""
    validation: tuple[tuple[str, ...], ...] = ()
    """The groups that each fold validates on, where the protocol fixes them; else the recipe has them drawn."""
    left_out: tuple[tuple[str, ...], ...] = ()
    """Groups that stand on no side of a fold, such as the partner who is heard in the tested speaker's dialogues."""
    validation_by: str = "group"
    """What is held out to choose the epoch: whole groups; whole sessions (`session`) where the tested groups are
    speakers who talk to each other; or `utterance` where too few groups are left."""
    crossing: tuple[str, ...] = ()
    """What its publisher lets stand on both sides all the same, such as `speaker`; said in every report."""
    lacking: tuple[str, ...] = ()
    """Emotions that some tested groups never show; where they are absent, UA is the mean over the others."""
    validation_share: float = 0.0
    """Of the training clips, where a recipe has so many of them drawn to choose the epoch in the place of groups. No
    part of the hash: who is tested does not change; the hash of the folds has it."""
    chooses: bool = True
    """Whether the epoch is chosen on what is held out; not where a recipe takes the last one, say. No part of the hash
    either."""

    @property
    def hash(self) -> str:
        """SHA-256 of what decides the folds; equal hashes mean comparable results."""
        decisive: list[Any] = [self.name, self.version, self.unit, self.test]
        further = (self.validation, self.left_out, self.validation_by, self.crossing, self.lacking)
        if further != ((), (), "group", (), ()):
            decisive += further
        return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()

    @property
    def held_out_unit(self) -> str:
        """The column by which what chooses the epoch is held out of a training side."""
        return self.unit if self.validation_by == "group" else self.validation_by

    @property
    def validates_on_heard(self) -> bool:
        """Whether clips of training speakers choose the epoch."""
        return not self.validation and (self.validation_by == "utterance" or self.validation_share > 0)

    @property
    def rule(self) -> str:
        """How it divides, as a sentence for reports."""
        parts = [f"each fold tests {'unheard ' if not self.crossing else ''}{self.unit}s"]
        if not self.chooses:
            parts += [f"the {self.unit}s that are fixed to choose the epoch are left unused"] if self.validation else []
        elif self.validation:
            kept = ", whatever share of the clips the recipe would have drawn" if self.validation_share else ""
            parts.append(f"the {self.unit}s that choose the epoch are fixed{kept}")
        elif self.validation_share:
            parts.append(
                f"{100 * self.validation_share:g} % of the training clips, drawn among those of each emotion, choose"
                f" the epoch: validation clips are of speakers heard in training, which flatters the choice of the"
                f" epoch"
            )
        elif self.validation_by == "utterance":
            parts.append(
                f"too few {self.unit}s are left to hold one out, so {round(100 * VALIDATION_SHARE)} % of the clips of"
                f" each training speaker and emotion choose the epoch: heard voices, which favours later epochs;"
                f" the tested {self.unit}s stay unheard"
            )
        else:
            parts.append(f"the epoch is chosen on {self.held_out_unit}s held out of the training side")
        if self.left_out:
            parts.append(f"some {self.unit}s stand on no side of a fold")
        if self.crossing:
            parts.append(f"the publisher lets each {' and '.join(self.crossing)} stand on both sides")
        if self.lacking:
            parts.append(
                f"where a tested {self.unit} never shows {' or '.join(self.lacking)}, UA is over the other emotions"
            )
        return "; ".join(parts)

    def as_json(self) -> dict[str, Any]:
        """What `protocol.json` of a run holds."""
        return {**asdict(self), "hash": self.hash, "rule": self.rule}

    def lacking_groups(self, corpus: PreparedCorpus) -> list[str]:
        """Groups that are tested or validated on and that a corpus lacks, sorted."""
        present = {value_of(utterance, self.unit) for utterance in corpus.utterances}
        return sorted({group for groups in (*self.test, *self.validation) for group in groups} - present)


@cache
def shipped_protocols(corpus: str) -> tuple[Protocol, ...]:
    """The protocols that ship for a corpus, its standard one first."""
    file = resources.files("ser_cli.corpora.protocols") / f"{corpus}.json"
    if not file.is_file():
        return ()
    return tuple(_from_json(values) for values in json.loads(file.read_text(encoding="utf-8")))


def _from_json(values: dict[str, Any]) -> Protocol:
    folds: dict[str, Any] = {
        key: tuple(map(tuple, values[key])) for key in ("test", "validation", "left_out") if key in values
    }
    lists: dict[str, Any] = {key: tuple(values[key]) for key in ("crossing", "lacking") if key in values}
    return Protocol(**{**values, **folds, **lists})


def choose_protocol(corpus: PreparedCorpus, name: str | None, folds: int | None, seed: int) -> Protocol:
    """The protocol that a command asks for.

    Args:
        corpus: its speakers are dealt where no shipped protocol is meant.
        name: a shipped protocol, `seeded` or `seeded-sessions`, or what folds are called that a seed dealt before,
            whatever `seed` is; None for the standard one with `folds` folds.
        folds: how many folds; None for the standard protocol's number.
        seed: deals the speakers of a seeded protocol.

    Raises:
        UnknownNameError: no protocol of this corpus has that name.
        UsageError: the number of folds does not fit the protocol or the number of speakers.
        FoldError: the corpus lacks speakers that the protocol tests, or has others than were dealt.
    """
    shipped = shipped_protocols(corpus.preparation.corpus)
    if folds is not None and folds < 2 and all(len(p.test) != folds for p in shipped):
        raise UsageError(f"--folds {folds}: at least 2 folds are needed, to train on one side and test on the other")
    if name is None:
        standard = [p for p in shipped if folds in (None, len(p.test))]
        # A part of a corpus never gets other folds under a number that readers take for the published ones.
        return _require_groups(corpus, standard[0]) if standard else _deal(corpus, _natural_unit(corpus), folds, seed)
    if name in (SEEDED, SEEDED_SESSIONS):
        return _deal(corpus, "speaker" if name == SEEDED else "session", folds, seed)
    if dealt := DEALT.fullmatch(name):
        return _deal_again(corpus, dealt, folds)
    chosen = next((p for p in shipped if p.name == name), None)
    if chosen is None:
        raise UnknownNameError("protocol", name, [*(p.name for p in shipped), SEEDED, SEEDED_SESSIONS])
    if folds not in (None, len(chosen.test)):
        raise UsageError(f"--folds {folds}: protocol {name} has {len(chosen.test)} folds; leave --folds out")
    return _require_groups(corpus, chosen)


def _require_groups(corpus: PreparedCorpus, protocol: Protocol) -> Protocol:
    lacking = protocol.lacking_groups(corpus)
    if lacking:
        raise FoldError(
            f"protocol {protocol.name} tests {count_of(len(lacking), protocol.unit)} that the prepared"
            f" {corpus.name} lacks: {', '.join(lacking[:10])}{' …' if len(lacking) > 10 else ''}\n"
            f"  prepare the whole corpus, loosen --where, or deal the speakers at hand: --protocol {SEEDED} --folds K"
        )
    return protocol


def _deal(corpus: PreparedCorpus, unit: str, folds: int | None, seed: int) -> Protocol:
    """Deal shuffled groups to folds in turn; speakers one gender after the other, so that each fold has both."""
    if unit == "session" and not all(utterance.session for utterance in corpus.utterances):
        raise FoldError(
            f"protocol {SEEDED_SESSIONS}: some utterances of {corpus.name} name no session\n"
            f"  fill the column session of the manifest, or deal speakers: --protocol {SEEDED}"
        )
    if unit == "speaker" and any(utterance.speaker == UNKNOWN_SPEAKER for utterance in corpus.utterances):
        raise FoldError(
            f"{corpus.name} has utterances of unknown speakers, who may be anybody in any fold\n"
            f"  leave them out: --where speaker!={UNKNOWN_SPEAKER}"
        )
    genders = {value_of(u, unit): u.gender if unit == "speaker" else "" for u in corpus.utterances}
    if len(genders) < 2 and unit == "session":
        raise FoldError(
            f"{corpus.name} has one session, {next(iter(genders))}, and every fold tests a session that was not trained"
            f" on\n  leave the column session of the manifest empty if it tells no conversations apart, and prepare it"
            f" again with --force"
        )
    if len(genders) < 2:
        raise FoldError(
            f"{corpus.name} has {count_of(len(genders), unit)}, and every fold tests a {unit} that was not trained on\n"
            f"  at least two are needed: see that the column {unit} tells them apart, or add recordings of others"
        )
    folds = folds or min(DEFAULT_FOLDS, len(genders))
    if folds > len(genders):
        raise UsageError(
            f"--folds {folds}: the corpus has {count_of(len(genders), unit)}, and each fold must test at least one\n"
            f"  use --folds {len(genders)} or fewer"
        )
    rng = np.random.default_rng(seed)
    groups = sorted(genders)
    rng.shuffle(groups)
    groups.sort(key=lambda group: genders[group])
    return Protocol(
        name=f"{SEEDED}-{folds}-of-{len(groups)}-{unit}s-seed-{seed}",
        version=1,
        unit=unit,
        source=f"{unit}s shuffled by the seed and dealt to the folds in turn",
        test=tuple(tuple(sorted(groups[k::folds])) for k in range(folds)),
    )


def _deal_again(corpus: PreparedCorpus, dealt: re.Match[str], folds: int | None) -> Protocol:
    """The folds of that name, so that trainings with several seeds test the same speakers in each."""
    name, unit = dealt[0], dealt["unit"]
    if folds not in (None, int(dealt["folds"])):
        raise UsageError(f"--folds {folds}: protocol {name} has {dealt['folds']} folds; leave --folds out")
    protocol = _deal(corpus, unit, int(dealt["folds"]), int(dealt["seed"]))
    if protocol.name != name:
        there = sum(map(len, protocol.test))
        raise FoldError(
            f"protocol {name} deals {count_of(int(dealt['groups']), unit)}, and {corpus.name} has {there:,}\n"
            f"  take the corpus, --labels and --where that it was dealt from, or deal anew: --protocol"
            f" {SEEDED if unit == 'speaker' else SEEDED_SESSIONS} --folds {dealt['folds']}"
        )
    return protocol


def _natural_unit(corpus: PreparedCorpus) -> str:
    """Sessions where speakers share them, as in dialogues, where one is heard while the other speaks; else speakers."""
    speakers: dict[str, set[str]] = defaultdict(set)
    for utterance in corpus.utterances:
        speakers[utterance.session].add(utterance.speaker)
    shared = "" not in speakers and any(len(group) > 1 for group in speakers.values())
    return "session" if shared else "speaker"
