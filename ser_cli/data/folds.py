"""Folds that cannot leak: who is tested when is chosen by speaker or session, never by clip.

Choosing is apart from applying: a `Protocol` (data/protocols.py) says which groups each fold tests, and is data
with a hash; `make_folds` turns it into ids; `check_folds` proves again, from the ids alone, that nothing crosses.
"""

import csv
import hashlib
import io
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ser_cli.data.manifest import UNKNOWN_SPEAKER, Utterance, is_mixture, mixed_from
from ser_cli.data.protocols import VALIDATION_SHARE, Protocol
from ser_cli.data.selection import value_of
from ser_cli.data.store import PreparedCorpus
from ser_cli.errors import SHOWN_PROBLEMS, FoldError, count_of
from ser_cli.files import write_atomically

ALSO = "also_"
"""Begins the columns that name who else is heard in a mixture: `also_speaker`, `also_session`, `also_dialog`."""


@dataclass(frozen=True)
class Fold:
    """The ids of one fold, counted from 1 as in the papers."""

    index: int
    train: tuple[str, ...]
    validation: tuple[str, ...]
    """Chooses the epoch; empty where the recipe takes the last one."""
    test: tuple[str, ...]
    lacking: tuple[str, ...] = ()
    """Emotions without a clip on the test side, which the protocol lets be; UA is over the others."""

    @property
    def sides(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """The three sides with their names."""
        return (("train", self.train), ("validation", self.validation), ("test", self.test))


def make_folds(protocol: Protocol, corpus: PreparedCorpus, *, validation_speakers: int, seed: int) -> tuple[Fold, ...]:
    """Turn a protocol into ids, holding out validation speakers (or sessions) from each training side.

    A mixture of two clips, as `ser mix` makes it, stands on a training side that both of its speakers (sessions,
    dialogues) are on, and nowhere else: nothing is validated or tested on mixtures.

    Args:
        protocol: which groups each fold tests.
        corpus: what is divided.
        validation_speakers: speakers held out of the training side, alternating genders where known; a
            session protocol holds out whole sessions until it has as many. At most a third of the training
            side is taken. 0 holds nothing out. A protocol that fixes its validation groups, or holds out
            utterances because too few groups are left or its `validation_share` says so, does that instead.
        seed: chooses the validation groups, separately for each fold.

    Raises:
        FoldError: a side would lack one of the declared emotions, or too few groups are left to hold one out.
    """
    members: dict[str, list[Utterance]] = defaultdict(list)
    for utterance in corpus.utterances:
        if not is_mixture(utterance):
            members[value_of(utterance, protocol.unit)].append(utterance)
    if members.get(""):
        raise FoldError(
            f"protocol {protocol.name}: {count_of(len(members['']), 'utterance')} of {corpus.name}, such as"
            f" {members[''][0].id}, have no {protocol.unit}, so that no side can be theirs\n"
            f"  leave them out: --where {protocol.unit}!="
        )
    mixtures = [utterance for utterance in corpus.utterances if is_mixture(utterance)]
    folds = []
    for index, tested in enumerate(protocol.test, start=1):
        fixed = protocol.validation[index - 1] if protocol.validation else ()
        left_out = protocol.left_out[index - 1] if protocol.left_out else ()
        rng = np.random.default_rng([seed, index])
        train = [u for group in sorted(set(members) - {*tested, *fixed, *left_out}) for u in members[group]]
        validation = [u for group in fixed for u in members[group]]
        if validation_speakers and not fixed:
            train, validation = _hold_out(index, train, validation_speakers, corpus, protocol, rng)
        test = [u for group in tested for u in members[group]]
        train += _mixtures_of(mixtures, train, [*validation, *test])
        sides = [tuple(sorted(u.id for u in side)) for side in (train, validation, test)]
        lacking = tuple(label for label in _missing_labels(test, corpus.labels) if label in protocol.lacking)
        folds.append(Fold(index, sides[0], sides[1], sides[2], lacking))
    return tuple(folds)


def check_folds(folds: Sequence[Fold], corpus: PreparedCorpus, protocol: Protocol) -> None:
    """Prove that no group and no recording crosses a fold and that every side has every emotion.

    Speakers, sessions, dialogues (a column `dialog`) and identical recordings may stand on one side of a fold
    only, but for what the protocol says otherwise of speakers, sessions and dialogues.

    Raises:
        FoldError: names the fold and the pairs, or the emotion that a side lacks.
    """
    for fold in folds:
        for what in ("speaker", "session", "dialog"):
            if what not in protocol.crossing:
                _check_crossing(fold, corpus, what, _heard(what), heard_in_validation=protocol.validates_on_heard)
        _check_crossing(fold, corpus, "recording", lambda u: {corpus.audio_hash(u.id)})
        _check_crossing(fold, corpus, "source", lambda u: {u.id, *mixed_from(u)})
        for side, ids in fold.sides:
            known = fold.lacking if side == "test" else ()
            missing = [e for e in _missing_labels((corpus.by_id[i] for i in ids), corpus.labels) if e not in known]
            if missing and not (side == "validation" and not (ids and protocol.chooses)):
                nobody = ", --select last, which holds nobody out" if side == "validation" else ""
                raise FoldError(
                    f"fold {fold.index}: no {' and no '.join(missing)} in {side} ({count_of(len(ids), 'clip')})\n"
                    f"  every side of a fold needs every declared emotion: use fewer folds, another --protocol or"
                    f" --labels{nobody}, or a corpus without these clips"
                )
    tested = [identity for fold in folds for identity in fold.test]
    if len(tested) != len(set(tested)):
        twice = next(i for i in tested if tested.count(i) > 1)
        raise FoldError(f"utterance {twice} is tested in more than one fold; folds must not overlap in test")


def hash_folds(folds: Sequence[Fold]) -> str:
    """SHA-256 over every utterance's side in every fold: equal for runs that trained and tested on the same clips."""
    text = json.dumps([[fold.index, *(ids for _, ids in fold.sides)] for fold in folds])
    return hashlib.sha256(text.encode()).hexdigest()


def caveats(folds: Sequence[Fold], corpus: PreparedCorpus) -> list[str]:
    """What a reader of the scores has to know of these folds of this corpus, a sentence each."""
    unknown = {utterance.id for utterance in corpus.utterances if utterance.speaker == UNKNOWN_SPEAKER}
    trained = max((len(unknown & set(fold.train)) for fold in folds), default=0)
    if not trained:
        return []
    return [
        f"{count_of(trained, 'training clip')} are of unknown speakers, so it cannot be shown that those who are tested"
        f" are unheard (without them: --where speaker!={UNKNOWN_SPEAKER})"
    ]


def validates_on_heard(fold: Fold, corpus: PreparedCorpus) -> bool:
    """Whether a speaker whose clips choose the epoch is heard in training too."""
    trained, judged = ({corpus.by_id[i].speaker for i in ids} for ids in (fold.train, fold.validation))
    return bool(trained & judged - {UNKNOWN_SPEAKER})


def _heard(what: str) -> Callable[[Utterance], set[str]]:
    """The speakers (sessions, dialogues) that are heard in an utterance: in a mixture, those of both clips."""
    return lambda utterance: {value_of(utterance, what), value_of(utterance, ALSO + what)} - {""}


def _mixtures_of(
    mixtures: Sequence[Utterance], train: Sequence[Utterance], elsewhere: Sequence[Utterance]
) -> list[Utterance]:
    """The mixtures in which nobody is heard but who is trained on, and no clip that stands elsewhere."""
    kept = list(mixtures)
    ids = {utterance.id for utterance in elsewhere}
    for what in ("speaker", "session", "dialog"):
        heard = _heard(what)
        trained = {value for utterance in train for value in heard(utterance)}
        kept = [mixture for mixture in kept if heard(mixture) <= trained]
    return [mixture for mixture in kept if not ids & set(mixed_from(mixture))]


@dataclass(frozen=True)
class RepeatedText:
    """How much of what is said on a test side was said on its training side too."""

    fold: int
    clips: int
    """Tested clips whose text is among those of the training side."""
    tested: int
    """Tested clips whose text is known."""
    example: str


def repeated_texts(folds: Sequence[Fold], corpus: PreparedCorpus) -> list[RepeatedText]:
    """Find texts that are said on both sides of a fold: a model might learn the words in the place of the emotion.

    Compared in lower case and without punctuation. Scripted corpora repeat theirs by design.
    """
    found = []
    for fold in folds:
        trained = {_plain_text(corpus.by_id[i]) for i in (*fold.train, *fold.validation)} - {""}
        tested = [identity for identity in fold.test if _plain_text(corpus.by_id[identity])]
        repeated = [identity for identity in tested if _plain_text(corpus.by_id[identity]) in trained]
        if repeated:
            found.append(RepeatedText(fold.index, len(repeated), len(tested), corpus.by_id[repeated[0]].text))
    return found


def _plain_text(utterance: Utterance) -> str:
    return " ".join("".join(c if c.isalnum() else " " for c in utterance.text.lower()).split())


def write_folds(path: Path, folds: Iterable[Fold], corpus: PreparedCorpus) -> None:
    """Write `fold,side,id,speaker,session,emotion,gender` rows as CSV, whole or not at all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("fold", "side", "id", "speaker", "session", "emotion", "gender"))
    for fold in folds:
        for side, ids in fold.sides:
            for identity in ids:
                u = corpus.by_id[identity]
                writer.writerow((fold.index, side, identity, u.speaker, u.session, u.emotion, u.gender))
    write_atomically(path, text.getvalue().encode())


def _hold_out(
    index: int,
    train: Sequence[Utterance],
    speakers: int,
    corpus: PreparedCorpus,
    protocol: Protocol,
    rng: np.random.Generator,
) -> tuple[list[Utterance], list[Utterance]]:
    """Part a training side: what is trained on, and what chooses the epoch."""
    if protocol.validation_share:
        once = [label for label in corpus.labels if len(_recordings_of(label, train, corpus)) == 1]
        if once:
            raise FoldError(
                f"fold {index}: only one recording of {', '.join(once)} to train on, which cannot choose the epoch as"
                f" well\n  hold out whole speakers, --set selection.validation_share=0, or nobody, --select last"
            )
        return _hold_out_clips(train, corpus, rng, protocol.validation_share, lambda u: (u.emotion,))
    if protocol.validation_by == "utterance":
        parted = _hold_out_clips(train, corpus, rng, VALIDATION_SHARE, lambda u: (u.speaker, u.emotion))
        if not parted[1]:
            raise FoldError(
                f"fold {index}: no speaker says anything twice with the same emotion, so no clip can be held out to"
                " choose the epoch\n  train to the last epoch: --select last"
            )
        return parted
    unit = protocol.held_out_unit
    members: dict[str, list[Utterance]] = defaultdict(list)
    for utterance in train:
        members[value_of(utterance, unit)].append(utterance)
    held = set(_choose_groups(index, members, unit, speakers, corpus.labels, rng))
    return [u for u in train if value_of(u, unit) not in held], [u for u in train if value_of(u, unit) in held]


def _choose_groups(
    index: int,
    members: dict[str, list[Utterance]],
    unit: str,
    speakers: int,
    labels: Sequence[str],
    rng: np.random.Generator,
) -> list[str]:
    """Draw validation groups that have every emotion between them, at most a third of the training side's."""
    groups = sorted(members)
    most = len(groups) // 3 if len(groups) > 2 else len(groups) - 1
    if most < 1:
        raise FoldError(
            f"fold {index}: only {count_of(len(groups), unit)} to train on, none can be held out to"
            f" choose the epoch\n  train to the last epoch: --select last"
        )
    for _ in range(100):
        order = [str(group) for group in rng.permutation(groups)]
        by_gender: dict[str, list[str]] = defaultdict(list)
        for group in order:
            by_gender[members[group][0].gender if unit == "speaker" else ""].append(group)
        queues = sorted(by_gender.values(), key=lambda queue: order.index(queue[0]))
        chosen: list[str] = []
        held: set[str] = set()
        while len(held) < speakers and len(chosen) < most and any(queues):
            for queue in queues:
                if queue and len(held) < speakers and len(chosen) < most:
                    chosen.append(queue.pop(0))
                    held |= {utterance.speaker for utterance in members[chosen[-1]]}
        if not _missing_labels((u for group in chosen for u in members[group]), labels):
            return chosen
    more = "hold out more with --set selection.validation_speakers=N, or " if len(chosen) < most else ""
    lacking = ", ".join(_missing_labels((u for group in chosen for u in members[group]), labels))
    raise FoldError(
        f"fold {index}: in 100 draws no {count_of(len(chosen), unit)} of the training side had every emotion between"
        f" them; the last lacked {lacking}\n"
        f"  {more}hold out clips of all speakers: --set selection.validation_share=0.1, or train to the last epoch:"
        " --select last"
    )


def _hold_out_clips(
    train: Sequence[Utterance],
    corpus: PreparedCorpus,
    rng: np.random.Generator,
    share: float,
    stratum_of: Callable[[Utterance], tuple[str, ...]],
) -> tuple[list[Utterance], list[Utterance]]:
    """Part a training side: a share of the clips of each stratum chooses the epoch, one at least where it has two.

    Recordings that are the same under several names go together.
    """
    strata: dict[tuple[str, ...], dict[str, None]] = defaultdict(dict)
    for utterance in sorted(train, key=lambda utterance: utterance.id):
        strata[stratum_of(utterance)][corpus.audio_hash(utterance.id)] = None
    held = set()
    for _, stratum in sorted(strata.items()):
        recordings = list(stratum)
        count = max(min(1, len(recordings) - 1), round(share * len(recordings)))
        held |= {recordings[n] for n in rng.permutation(len(recordings))[:count]}
    validation = [utterance for utterance in train if corpus.audio_hash(utterance.id) in held]
    return [utterance for utterance in train if corpus.audio_hash(utterance.id) not in held], validation


def _recordings_of(label: str, utterances: Iterable[Utterance], corpus: PreparedCorpus) -> set[str]:
    """The recordings of an emotion, each once however many names it has."""
    return {corpus.audio_hash(utterance.id) for utterance in utterances if utterance.emotion == label}


def _missing_labels(utterances: Iterable[Utterance], labels: Sequence[str]) -> list[str]:
    present = {utterance.emotion for utterance in utterances}
    return [label for label in labels if label not in present]


def _check_crossing(
    fold: Fold,
    corpus: PreparedCorpus,
    what: str,
    key: Callable[[Utterance], set[str]],
    *,
    heard_in_validation: bool = False,
) -> None:
    first: dict[str, tuple[str, str]] = {}
    pairs: dict[str, tuple[str, str, str, str]] = {}
    for side, ids in fold.sides:
        for identity in ids:
            for value in sorted(key(corpus.by_id[identity])):
                other_side, other_id = first.setdefault(value, (side, identity))
                if other_side != side and not (heard_in_validation and side == "validation"):
                    pairs.setdefault(value, (other_id, other_side, identity, side))
    if not pairs:
        return
    lines = []
    for value, (other_id, other_side, identity, side) in list(pairs.items())[:SHOWN_PROBLEMS]:
        named = f"{what} {value}" if what != "recording" else f"the same recording, {other_id} and {identity},"
        told = f": {other_id} and {identity}" if what != "recording" else ""
        lines.append(f"fold {fold.index} has {named} in both {other_side} and {side}{told}")
    if len(pairs) > SHOWN_PROBLEMS:
        lines.append(f"and {count_of(len(pairs) - SHOWN_PROBLEMS, what)} more")
    lines.append(f"folds must not share a {what}: correct the {what}s of the corpus, {_ADVICE[what]}")
    raise FoldError("\n  ".join(lines))


_ADVICE = {
    "speaker": "leave some out with --where, or take another --protocol",
    "session": "keep sessions together with --protocol seeded-sessions, or name them apart where each speaker's"
    " are numbered anew",
    "dialog": "take a --protocol that ships for it, or leave some out with --where",
    "recording": "or leave one out",
    "source": "or leave the mixtures out",
}
