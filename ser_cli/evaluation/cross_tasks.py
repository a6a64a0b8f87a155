"""Trained models on another corpus: what they say of its clips beside their emotion."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ser_cli.data.store import PreparedCorpus
from ser_cli.provenance import read_description
from ser_cli.tasks.scores import TaskScores, score_tasks


def score_tasks_on_corpus(
    folders: Mapping[int, Path], corpus: PreparedCorpus, ids: Sequence[str], device_name: str, batch_size: int
) -> dict[int, TaskScores]:
    """Gender accuracy and word error rate of each fold's model that learnt more than emotion: the paper's Table 3.

    Args:
        folders: of the models, by fold.
        corpus: the prepared clips.
        ids: the clips.
        device_name: as `--device` takes it.
        batch_size: clips at a time.
    """
    from ser_cli.checkpoints import load_model
    from ser_cli.devices import choose_device
    from ser_cli.inference import predict_tasks
    from ser_cli.tasks.outputs import TaskOutputs

    found = {}
    for index, folder in folders.items():
        learnt = read_description(folder).get("tasks")
        if not learnt:
            continue
        trained = load_model(folder)
        outputs = TaskOutputs.from_json(learnt)
        settings = trained.recipe.training
        said = predict_tasks(
            trained.model.to(choose_device(device_name)),
            corpus,
            ids,
            outputs,
            batch_size,
            max_clip_s=settings.max_clip_s,
            max_batch_s=settings.max_batch_s,
        )
        found[index] = score_tasks(said if outputs.gender else (), said if outputs.characters else ())
    return found
