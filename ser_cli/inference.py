"""Predictions of a model for stored clips."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ser_cli.data.batches import evaluation_batches
from ser_cli.data.store import PreparedCorpus
from ser_cli.models.classifier import EmotionClassifier
from ser_cli.predictions import Prediction


@torch.inference_mode()
def predict_stored(
    model: EmotionClassifier, corpus: PreparedCorpus, ids: Sequence[str], fold: int, batch_size: int
) -> tuple[Prediction, ...]:
    """Classify clips of a prepared corpus, in the order of `ids`.

    A clip's prediction does not depend on the clips beside it: an encoder that is not exact under padding gets
    one clip at a time.

    Args:
        model: put into evaluation mode, and left so.
        corpus: where the clips are stored.
        ids: the clips.
        fold: recorded with each prediction.
        batch_size: clips at a time.
    """
    model.eval()
    device = next(model.parameters()).device
    if not getattr(model.encoder, "exact_under_padding", True):
        batch_size = 1
    probabilities: dict[str, list[float]] = {}
    for batch in evaluation_batches(corpus, ids, batch_size):
        batch = batch.to(device)  # noqa: PLW2901
        output = model(batch.waveforms, batch.lengths)
        probabilities.update(zip(batch.ids, _softmax(output.logits), strict=True))
    return tuple(
        Prediction(
            id=identity,
            fold=fold,
            truth=corpus.by_id[identity].emotion,
            predicted=corpus.labels[max(range(len(corpus.labels)), key=probabilities[identity].__getitem__)],
            probabilities=tuple(probabilities[identity]),
        )
        for identity in ids
    )


def _softmax(logits: Tensor) -> list[list[float]]:
    rows: list[list[float]] = logits.double().softmax(dim=-1).tolist()
    return rows
