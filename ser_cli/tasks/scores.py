"""Scores of the tasks beside emotion, as pure functions of predictions."""

from collections.abc import Sequence
from dataclasses import dataclass

from ser_cli.tasks.outputs import GENDERS
from ser_cli.tasks.predictions import TaskPrediction
from ser_cli.tasks.transcripts import normalised


@dataclass(frozen=True)
class TaskScores:
    """Rates; None where the task was not learnt or no clip has its label."""

    gender_clips: int
    """Clips whose gender is known to be one of `GENDERS`."""
    gender_accuracy: float | None
    words: int
    """Of the transcripts."""
    word_error_rate: float | None
    """Above 1 where more words are said than there are."""


def score_tasks(gender: Sequence[TaskPrediction], characters: Sequence[TaskPrediction]) -> TaskScores:
    """Gender accuracy, and word error rate: WER = (substitutions + deletions + insertions) / words of the transcripts.

    Both sides of the word error rate are normalised as the texts that were learnt. Errors and words are summed over the
    clips before they are divided, by jiwer: it is kept up by its authors since 2018 and counts with rapidfuzz, needs no
    torch (this reads files alone), and is what the field's papers and the evaluation libraries of transformers use.
    torchaudio has an edit distance without a rate, torchmetrics would bring a second framework of metrics along.

    Args:
        gender: each clip, once, of the models that learnt gender.
        characters: likewise of those that learnt characters.
    """
    known = [p for p in gender if p.gender in GENDERS]
    spoken = [(text, normalised(p.predicted_text)) for p in characters if (text := normalised(p.text))]
    return TaskScores(
        gender_clips=len(known),
        gender_accuracy=sum(p.gender == p.predicted_gender for p in known) / len(known) if known else None,
        words=sum(len(text.split()) for text, _ in spoken),
        word_error_rate=_word_error_rate(spoken) if spoken else None,
    )


def _word_error_rate(spoken: Sequence[tuple[str, str]]) -> float:
    import jiwer

    references, hypotheses = zip(*spoken, strict=True)
    return float(jiwer.wer(list(references), list(hypotheses)))
