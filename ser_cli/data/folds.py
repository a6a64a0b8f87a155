"""Folds that cannot leak: who is tested when is chosen by speaker or session, never by clip.

Choosing is apart from applying: a `Protocol` says which groups each fold tests, and is data with a hash;
`make_folds` turns it into ids; `check_folds` proves again, from the ids alone, that nothing crosses.
"""

import csv
import hashlib
import io
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np

from ser_cli.data.manifest import Utterance
from ser_cli.data.store import PreparedCorpus
from ser_cli.errors import FoldError, UnknownNameError, UsageError, count_of
from ser_cli.files import write_atomically

SEEDED = "seeded"
"""Names the protocol that is dealt from the speakers at hand rather than read from a shipped file."""

SEEDED_SESSIONS = "seeded-sessions"
"""The same, dealt from whole sessions: for dialogues, where a partner is heard in the background."""

DEFAULT_FOLDS = 5
"""Folds of a corpus without a shipped protocol, where it has that many speakers."""


@dataclass(frozen=True)
class Protocol:
    """Which speakers or sessions each fold tests."""

    name: str
    version: int
    unit: str
    """`speaker` or `session`: what never stands on both sides of a fold."""
    source: str
    """Where the definition comes from."""
    test: tuple[tuple[str, ...], ...]
    """The tested groups of each fold, fold 1 first."""

    @property
    def hash(self) -> str:
        """SHA-256 of what decides the folds; equal hashes mean comparable results."""
        decisive = [self.name, self.version, self.unit, self.test]
        return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()


@dataclass(frozen=True)
class Fold:
    """The ids of one fold, counted from 1 as in the papers."""

    index: int
    train: tuple[str, ...]
    validation: tuple[str, ...]
    """Chooses the epoch; empty where the recipe takes the last one."""
    test: tuple[str, ...]

    @property
    def sides(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """The three sides with their names."""
        return (("train", self.train), ("validation", self.validation), ("test", self.test))


@cache
def shipped_protocols(corpus: str) -> tuple[Protocol, ...]:
    """The protocols that ship for a corpus, its standard one first."""
    file = resources.files("ser_cli.corpora.protocols") / f"{corpus}.json"
    if not file.is_file():
        return ()
    return tuple(
        Protocol(p["name"], p["version"], p["unit"], p["source"], tuple(map(tuple, p["test"])))
        for p in json.loads(file.read_text(encoding="utf-8"))
    )


def choose_protocol(corpus: PreparedCorpus, name: str | None, folds: int | None, seed: int) -> Protocol:
    """The protocol that a command asks for.

    Args:
        corpus: its speakers are dealt where no shipped protocol is meant.
        name: a shipped protocol, `seeded` or `seeded-sessions`; None for the standard one with `folds` folds.
        folds: how many folds; None for the standard protocol's number.
        seed: deals the speakers of a seeded protocol.

    Raises:
        UnknownNameError: no protocol of this corpus has that name.
        UsageError: the number of folds does not fit the protocol or the number of speakers.
        FoldError: the corpus lacks speakers that the protocol tests.
    """
    shipped = shipped_protocols(corpus.preparation.corpus)
    if folds is not None and folds < 2:
        raise UsageError(f"--folds {folds}: at least 2 folds are needed, to train on one side and test on the other")
    if name is None:
        standard = [p for p in shipped if folds in (None, len(p.test))]
        # A part of a corpus never gets other folds under a number that readers take for the published ones.
        return _require_groups(corpus, standard[0]) if standard else _deal(corpus, "speaker", folds, seed)
    if name in (SEEDED, SEEDED_SESSIONS):
        return _deal(corpus, "speaker" if name == SEEDED else "session", folds, seed)
    chosen = next((p for p in shipped if p.name == name), None)
    if chosen is None:
        raise UnknownNameError("protocol", name, [*(p.name for p in shipped), SEEDED, SEEDED_SESSIONS])
    if folds not in (None, len(chosen.test)):
        raise UsageError(f"--folds {folds}: protocol {name} has {len(chosen.test)} folds; leave --folds out")
    return _require_groups(corpus, chosen)


def make_folds(protocol: Protocol, corpus: PreparedCorpus, *, validation_speakers: int, seed: int) -> tuple[Fold, ...]:
    """Turn a protocol into ids, holding out validation speakers (or sessions) from each training side.

    Args:
        protocol: which groups each fold tests.
        corpus: what is divided.
        validation_speakers: speakers held out of the training side, alternating genders where known; a
            session protocol holds out whole sessions until it has as many. At most a third of the training
            side is taken. 0 holds nothing out.
        seed: chooses the validation groups, separately for each fold.

    Raises:
        FoldError: a side would lack one of the declared emotions, or too few groups are left to hold one out.
    """
    members: dict[str, list[Utterance]] = defaultdict(list)
    for utterance in corpus.utterances:
        members[_group(utterance, protocol.unit)].append(utterance)
    folds = []
    for index, tested in enumerate(protocol.test, start=1):
        train_groups = sorted(set(members) - set(tested))
        held_out: tuple[str, ...] = ()
        if validation_speakers:
            rng = np.random.default_rng([seed, index])
            held_out = _hold_out(index, train_groups, members, validation_speakers, corpus.labels, protocol, rng)
        train = [u.id for group in train_groups if group not in held_out for u in members[group]]
        validation = [u.id for group in held_out for u in members[group]]
        test = [u.id for group in tested for u in members[group]]
        folds.append(Fold(index, *(tuple(sorted(side)) for side in (train, validation, test))))
    return tuple(folds)


def check_folds(folds: Sequence[Fold], corpus: PreparedCorpus, protocol: Protocol) -> None:
    """Prove that no group and no recording crosses a fold and that every side has every emotion.

    Raises:
        FoldError: names the fold and the speaker, session, recording or emotion.
    """
    for fold in folds:
        _check_crossing(fold, corpus, "speaker", lambda u: u.speaker)
        if protocol.unit == "session":
            _check_crossing(fold, corpus, "session", lambda u: u.session)
        _check_crossing(fold, corpus, "recording", lambda u: corpus.audio_hash(u.id))
        for side, ids in fold.sides:
            missing = _missing_labels((corpus.by_id[i] for i in ids), corpus.labels)
            if missing and not (side == "validation" and not ids):
                raise FoldError(
                    f"fold {fold.index}: no {' and no '.join(missing)} in {side} ({count_of(len(ids), 'clip')})\n"
                    f"  every side of a fold needs every declared emotion: use fewer folds, another --protocol,"
                    f" or a corpus without these clips"
                )
    tested = [identity for fold in folds for identity in fold.test]
    if len(tested) != len(set(tested)):
        twice = next(i for i in tested if tested.count(i) > 1)
        raise FoldError(f"utterance {twice} is tested in more than one fold; folds must not overlap in test")


def write_folds(path: Path, folds: Iterable[Fold], corpus: PreparedCorpus) -> None:
    """Write `fold,side,id,speaker,session,emotion` rows as CSV, whole or not at all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("fold", "side", "id", "speaker", "session", "emotion"))
    for fold in folds:
        for side, ids in fold.sides:
            for identity in ids:
                utterance = corpus.by_id[identity]
                writer.writerow((fold.index, side, identity, utterance.speaker, utterance.session, utterance.emotion))
    write_atomically(path, text.getvalue().encode())


def _group(utterance: Utterance, unit: str) -> str:
    return utterance.session if unit == "session" else utterance.speaker


def _speakers_lacking(corpus: PreparedCorpus, protocol: Protocol) -> list[str]:
    present = {_group(utterance, protocol.unit) for utterance in corpus.utterances}
    return sorted({group for groups in protocol.test for group in groups} - present)


def _require_groups(corpus: PreparedCorpus, protocol: Protocol) -> Protocol:
    lacking = _speakers_lacking(corpus, protocol)
    if lacking:
        raise FoldError(
            f"protocol {protocol.name} tests {count_of(len(lacking), protocol.unit)} that the prepared"
            f" {corpus.name} lacks: {', '.join(lacking[:10])}{' …' if len(lacking) > 10 else ''}\n"
            f"  prepare the whole corpus, or deal the speakers at hand: --protocol {SEEDED} --folds K"
        )
    return protocol


def _deal(corpus: PreparedCorpus, unit: str, folds: int | None, seed: int) -> Protocol:
    """Deal shuffled groups to folds in turn; speakers one gender after the other, so that each fold has both."""
    if unit == "session" and not all(utterance.session for utterance in corpus.utterances):
        raise FoldError(
            f"protocol {SEEDED_SESSIONS}: some utterances of {corpus.name} name no session\n"
            f"  fill the column session of the manifest, or deal speakers: --protocol {SEEDED}"
        )
    genders = {_group(u, unit): u.gender if unit == "speaker" else "" for u in corpus.utterances}
    folds = folds or min(DEFAULT_FOLDS, len(genders))
    if folds > len(genders) or len(genders) < 2:
        raise UsageError(
            f"--folds {folds}: the corpus has {count_of(len(genders), unit)}, and each fold must test at least one\n"
            f"  use --folds {len(genders)} or fewer; at least two {unit}s are needed"
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


def _hold_out(
    index: int,
    train_groups: Sequence[str],
    members: dict[str, list[Utterance]],
    speakers: int,
    labels: Sequence[str],
    protocol: Protocol,
    rng: np.random.Generator,
) -> tuple[str, ...]:
    """Choose validation groups that have every emotion, taking at most a third of the training side."""
    most = len(train_groups) // 3 if len(train_groups) > 2 else len(train_groups) - 1
    if most < 1:
        raise FoldError(
            f"fold {index}: only {count_of(len(train_groups), protocol.unit)} to train on, none can be held out to"
            f" choose the epoch\n  train to the last epoch: --select last"
        )
    for _ in range(100):
        order = [str(group) for group in rng.permutation(train_groups)]
        by_gender: dict[str, list[str]] = defaultdict(list)
        for group in order:
            by_gender[members[group][0].gender if protocol.unit == "speaker" else ""].append(group)
        queues = sorted(by_gender.values(), key=lambda queue: order.index(queue[0]))
        chosen: list[str] = []
        held: set[str] = set()
        while len(held) < speakers and len(chosen) < most and any(queues):
            for queue in queues:
                if queue and len(held) < speakers and len(chosen) < most:
                    chosen.append(queue.pop(0))
                    held |= {utterance.speaker for utterance in members[chosen[-1]]}
        if not _missing_labels((u for group in chosen for u in members[group]), labels):
            return tuple(sorted(chosen))
    raise FoldError(
        f"fold {index}: no {count_of(most, protocol.unit)} of the training side have every emotion between them\n"
        f"  hold out more with --set selection.validation_speakers=N, or train to the last epoch: --select last"
    )


def _missing_labels(utterances: Iterable[Utterance], labels: Sequence[str]) -> list[str]:
    present = {utterance.emotion for utterance in utterances}
    return [label for label in labels if label not in present]


def _check_crossing(fold: Fold, corpus: PreparedCorpus, what: str, key) -> None:  # type: ignore[no-untyped-def]
    first_side: dict[str, tuple[str, str]] = {}
    for side, ids in fold.sides:
        for identity in ids:
            value = key(corpus.by_id[identity])
            other_side, other_id = first_side.setdefault(value, (side, identity))
            if other_side != side:
                named = f"{what} {value}" if what != "recording" else f"the same recording, {other_id} and {identity},"
                raise FoldError(
                    f"fold {fold.index} has {named} in both {other_side} and {side}\n"
                    f"  folds must not share a {what}: correct the {what}s of the corpus, or leave one out"
                )
