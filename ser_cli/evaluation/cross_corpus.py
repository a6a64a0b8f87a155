"""A trained model on another corpus: labels mapped by name, and what cannot be mapped said."""

import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ser_cli.data.manifest import Utterance, is_mixture, require_texts
from ser_cli.data.store import MANIFEST_NAME, PreparedCorpus, open_corpus
from ser_cli.errors import CorpusError, RunError, count_of
from ser_cli.evaluation.breakdown import Breakdown, Person, break_down
from ser_cli.evaluation.cross_tasks import score_tasks_on_corpus
from ser_cli.evaluation.model_origin import fold_column, heard_speakers, how_trained, model_folders, trained_on
from ser_cli.evaluation.normalization import Normalization, normalization_of
from ser_cli.evaluation.scores import RATES
from ser_cli.metrics import Scores, confusion_matrix, score
from ser_cli.provenance import normalized_by, read_description
from ser_cli.runs.predictions import Prediction
from ser_cli.tasks.scores import TaskScores

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class CorpusChoice:
    """What `--labels` and `--where` took of a prepared corpus."""

    label_set: str
    """As `--labels` takes it."""
    labels: tuple[str, ...]
    where: tuple[str, ...]
    clips: int
    """That were chosen, whether or not the model knows their emotion."""
    prepared: int
    """Clips of the whole prepared corpus."""
    not_chosen: dict[str, int]
    """Prepared clips that were not chosen, by the corpus's own emotions."""

    def as_json(self) -> dict[str, Any]:
        """What `--json` tells of it."""
        return {
            "label_set": self.label_set,
            "corpus_labels": list(self.labels),
            "where": list(self.where),
            "chosen_clips": self.clips,
            "prepared_clips": self.prepared,
            "not_chosen": self.not_chosen,
        }


@dataclass(frozen=True)
class Outside:
    """A label that the model knows and that is not among those chosen of the corpus."""

    label: str
    mean_probability: float
    """What the model gives it, mean over the clips."""
    clips: int
    """Clips that the model would have called so, had it been allowed to."""


def merged_labels(corpus: PreparedCorpus, whole: Sequence[Utterance], labels: Sequence[str]) -> dict[str, str]:
    """Which of a model's labels the choice of the corpus's counts as which other that the model knows too."""
    own = {utterance.id: utterance.emotion for utterance in whole}
    counted = {own[utterance.id]: utterance.emotion for utterance in corpus.utterances}
    return {
        label: counted[label]
        for label in labels
        if label not in corpus.labels and label in counted and counted[label] in labels
    }


@dataclass(frozen=True)
class CrossScores:
    """A model on another corpus."""

    model: str
    dataset: str
    trained_on: str
    """Corpus that the model was trained on; empty where it does not say."""
    selected_by: tuple[str, ...]
    """How the epochs of the folds were chosen, as `done.json` says, each kind once; empty where that is not there."""
    changes: tuple[str, ...]
    """What changed while the run of the model went on, as sentences."""
    model_labels: tuple[str, ...]
    choice: CorpusChoice
    """What was chosen of the corpus."""
    folds: tuple[tuple[int, Scores], ...]
    """Each fold's model alone."""
    breakdown: Breakdown
    """Of the mean of all folds' probabilities, over the labels that model and corpus share."""
    predictions: tuple[Prediction, ...]
    merged: dict[str, str]
    """Labels of the model that count as another one, since the chosen labels merge them."""
    outside: tuple[Outside, ...]
    outside_probabilities: NDArray[np.float64]
    """(clips, labels that the chosen ones lack)."""
    left_out: dict[str, int]
    """Chosen clips of each emotion that the model does not know."""
    mixtures: int
    """Chosen clips that `ser mix` made; nothing is tested on them."""
    heard: dict[str, int]
    """Clips of each speaker who was in training of a model that is asked here."""
    tasks: dict[int, TaskScores]
    """Beside emotion, of each fold's model that learnt more."""
    normalization: Normalization
    """What the clips are heard against."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Those that model and corpus share, in the model's order."""
        return self.breakdown.labels

    def as_json(self) -> dict[str, Any]:
        """What `ser evaluate MODEL --dataset NAME --json` prints; rates in [0, 1]."""
        rates = {rate: [getattr(scores, rate) for _, scores in self.folds] for rate in RATES}
        return {
            "dataset": self.dataset,
            "model": self.model,
            "trained_on": self.trained_on or None,
            "selected_by": list(self.selected_by),
            "changes": list(self.changes),
            "labels": list(self.labels),
            "model_labels": list(self.model_labels),
            **self.choice.as_json(),
            "folds": [{"fold": index, **asdict(scores)} for index, scores in self.folds],
            "mean": {rate: fmean(values) for rate, values in rates.items()},
            "std": {rate: stdev(values) for rate, values in rates.items()} if len(self.folds) > 1 else None,
            **self.breakdown.as_json(),
            "left_out": self.left_out,
            "mixtures": self.mixtures,
            "merged": self.merged,
            "outside": [asdict(outside) for outside in self.outside],
            "heard_speakers": self.heard,
            **self.normalization.as_json(),
            **({"tasks": [{"fold": i, **asdict(scores)} for i, scores in self.tasks.items()]} if self.tasks else {}),
        }


def evaluate_on_corpus(
    folder: Path,
    corpus: PreparedCorpus,
    *,
    device_name: str = "auto",
    batch_size: int = 16,
    progress: Progress = lambda done, total: None,
) -> CrossScores:
    """Run a trained model on a corpus and score it over the labels that both have.

    The model chooses among the shared labels alone: its probabilities are divided by their sum over these. Where the
    chosen labels merge emotions that the model tells apart, their probabilities are added. A run's folds are averaged
    before that.

    Args:
        folder: a run, or one of its folds.
        corpus: the prepared clips, with its own choice of labels.
        device_name: as `--device` takes it.
        batch_size: clips at a time.
        progress: told how many clips of how many were classified.

    Raises:
        RunError: the folder holds no model, or models that do not belong together.
        CorpusError: fewer than two labels are shared, or a shared label has no clip.
    """
    folders = model_folders(folder)
    selected_by, changes = how_trained(folder, folders)
    labels, probabilities, ids, left_out = _classify(folders, corpus, device_name, batch_size, progress)
    shared = [label for label in labels if label in corpus.labels]
    whole = open_corpus(corpus.folder).utterances
    merged = merged_labels(corpus, whole, labels)
    others = [index for index, label in enumerate(labels) if label not in corpus.labels and label not in merged]
    counts_as = np.array([[merged.get(label, label) == target for target in shared] for label in labels], dtype=float)
    each = [_predictions(index, ids, corpus, shared, p @ counts_as) for index, p in probabilities.items()]
    together = np.mean(list(probabilities.values()), axis=0)
    predictions = _predictions(fold_column(folder, folders), ids, corpus, shared, together @ counts_as)
    people = {i: Person(corpus.by_id[i].speaker, corpus.by_id[i].gender) for i in ids}
    # Not every corpus has every shared label: what is absent is left out of UA, and said.
    lacking = [label for label in shared if not any(p.truth == label for p in predictions)]
    # What counts as a chosen label, then the others: each clip has one first choice among them.
    choices = np.hstack([together @ counts_as, together[:, others]])
    winners = Counter(int(index) - len(shared) for index in choices.argmax(axis=1))
    return CrossScores(
        model=str(folder),
        dataset=corpus.name,
        trained_on=trained_on(folder, folders),
        selected_by=selected_by,
        changes=changes,
        model_labels=labels,
        choice=_choice(corpus, whole),
        folds=tuple((index, _score(clips, shared, lacking)) for index, clips in zip(probabilities, each, strict=True)),
        breakdown=break_down(predictions, shared, people, lacking=lacking),
        predictions=predictions,
        merged=merged,
        outside=tuple(
            Outside(labels[i], float(together[:, i].mean()), winners[place]) for place, i in enumerate(others)
        ),
        outside_probabilities=together[:, others],
        left_out=left_out,
        mixtures=sum(map(is_mixture, corpus.utterances)),
        heard=heard_speakers(folder, folders, corpus, ids),
        tasks=score_tasks_on_corpus(folders, corpus, ids, device_name, batch_size),
        normalization=_normalization(folders, corpus, ids),
    )


def _classify(
    folders: Mapping[int, Path], corpus: PreparedCorpus, device_name: str, batch_size: int, progress: Progress
) -> tuple[tuple[str, ...], dict[int, NDArray[np.float64]], list[str], dict[str, int]]:
    """Labels, (clips, labels) probabilities of each fold's model, ids, and how many clips were left out."""
    from ser_cli.checkpoints import load_model
    from ser_cli.devices import choose_device
    from ser_cli.inference import classify_stored

    device = choose_device(device_name)
    probabilities: dict[int, NDArray[np.float64]] = {}
    labels: tuple[str, ...] = ()
    ids: list[str] = []
    left_out: dict[str, int] = {}
    for position, (index, folder) in enumerate(folders.items()):
        trained = load_model(folder)
        if not probabilities:
            labels = trained.labels
            ids, left_out = _usable(corpus, labels)
        elif trained.labels != labels:
            raise RunError(f"{folder}: its labels differ from those of the other folds; train the run again")

        def told(done: int, before: int = position, clips: int = len(ids)) -> None:
            progress(before * clips + done, len(folders) * clips)

        if trained.recipe.text.encoder:
            require_texts(corpus.name, [corpus.by_id[identity] for identity in ids])
        settings = trained.recipe.training
        probabilities[index] = classify_stored(
            trained.model.to(device),
            corpus,
            ids,
            batch_size,
            max_clip_s=settings.max_clip_s,
            max_batch_s=settings.max_batch_s,
            progress=told,
        )
    return labels, probabilities, ids, left_out


def _normalization(folders: Mapping[int, Path], corpus: PreparedCorpus, ids: Sequence[str]) -> Normalization:
    """What the models hear the corpus's clips against: all of a speaker, whatever emotion they show."""
    each = {normalized_by(read_description(folder)) for folder in folders.values()}
    speakers = {utterance.id: utterance.speaker for utterance in corpus.utterances}
    return normalization_of("speaker" if "speaker" in each else "clip", ids, speakers)


def _choice(corpus: PreparedCorpus, whole: Sequence[Utterance]) -> CorpusChoice:
    """What was taken of a prepared corpus, held against all that lies on disk."""
    not_chosen = Counter(utterance.emotion for utterance in whole if utterance.id not in corpus.by_id)
    return CorpusChoice(
        label_set=corpus.preparation.label_set or ",".join(corpus.labels),
        labels=corpus.labels,
        where=corpus.where,
        clips=len(corpus.utterances),
        prepared=len(whole),
        not_chosen=dict(sorted(not_chosen.items())),
    )


def _usable(corpus: PreparedCorpus, labels: Sequence[str]) -> tuple[list[str], dict[str, int]]:
    """Ids of recordings whose emotion the model knows, and how many of each other emotion there are."""
    shared = [label for label in labels if label in corpus.labels]
    if len(shared) < 2:
        raise CorpusError(
            f"{corpus.name} and the model share {count_of(len(shared), 'label')}; at least 2 are needed\n"
            f"  the model knows {', '.join(labels)}; the labels chosen of {corpus.name} are"
            f" {', '.join(corpus.labels)}\n"
            f"  {_advice(corpus, open_corpus(corpus.folder).utterances, labels)}"
        )
    recordings = [u for u in corpus.utterances if not is_mixture(u)]
    if not recordings:
        raise CorpusError(
            f"{corpus.name}: all chosen clips are mixtures, and nothing is tested on them\n"
            f"  choose recordings too: --where source_b="
        )
    unknown = Counter(u.emotion for u in recordings if u.emotion not in labels)
    if unknown.total() == len(recordings):
        raise CorpusError(
            f"{corpus.name}: no chosen clip shows an emotion that the model knows, {', '.join(labels)}; there are"
            f" {', '.join(sorted(unknown))}\n  loosen --where {' and '.join(map(shlex.quote, corpus.where))}"
        )
    return [u.id for u in recordings if u.emotion in labels], dict(sorted(unknown.items()))


def _advice(corpus: PreparedCorpus, whole: Sequence[Utterance], labels: Sequence[str]) -> str:
    """How a corpus comes to labels that a model knows; `--labels` chooses and merges emotions, but renames none."""
    occurring = {utterance.emotion for utterance in whole}
    known = [label for label in labels if label in occurring]
    if len(known) > 1:
        return f"choose what it has of these: --labels {shlex.quote(','.join(known))}"
    preparation = corpus.preparation
    source = shlex.quote(preparation.source)
    if preparation.manifest:
        manifest = shlex.quote(preparation.manifest)
        return (
            f"write the model's names into the column emotion of its manifest, and prepare it again:"
            f" ser prepare --manifest {manifest} --source {source} --name {preparation.name} --force"
        )
    return (
        f"write the model's names into the column emotion of a copy of {corpus.folder / MANIFEST_NAME}, and prepare"
        f" that: ser prepare --manifest COPY --source {source} --name OTHER, then --dataset OTHER"
    )


def _predictions(
    fold: int, ids: Sequence[str], corpus: PreparedCorpus, shared: Sequence[str], probabilities: NDArray[np.float64]
) -> tuple[Prediction, ...]:
    """Predictions over the shared labels, whose probabilities are made to sum to 1."""
    shares = probabilities / probabilities.sum(axis=1, keepdims=True)
    return tuple(
        Prediction(i, fold, corpus.by_id[i].emotion, shared[int(row.argmax())], tuple(map(float, row)))
        for i, row in zip(ids, shares, strict=True)
    )


def _score(predictions: Sequence[Prediction], labels: Sequence[str], lacking: Sequence[str]) -> Scores:
    confusion = confusion_matrix([p.truth for p in predictions], [p.predicted for p in predictions], labels)
    return score(confusion, labels, lacking)
