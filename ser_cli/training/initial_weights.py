"""The pre-trained weights that a fold starts from, compared with those of the folds that are done."""

from ser_cli.checkpoints import hash_weights
from ser_cli.encoder_settings import BUILT_IN_ENCODER, VGGISH_ENCODER
from ser_cli.errors import RunError
from ser_cli.models.classifier import EmotionClassifier
from ser_cli.models.pretrained import OPTIONAL_WEIGHTS
from ser_cli.processes import shared_by_first
from ser_cli.recipe import Recipe
from ser_cli.runs.directory import FoldFolder, Run
from ser_cli.runs.initial_weights import differing_weights, weights_of_folds

OF_THE_FOLD = OPTIONAL_WEIGHTS | {"running_mean", "running_var", "num_batches_tracked"}
"""What is drawn where a checkpoint lacks it, and what measuring the losses moves: each fold has its own."""


def hash_pretrained(model: EmotionClassifier, recipe: Recipe) -> dict[str, str]:
    """SHA-256 of the pre-trained weights of a model, by the setting that names them.

    Without those of the built-in encoder, which each fold draws anew.
    """
    hashes = {}
    if recipe.encoder.name != BUILT_IN_ENCODER:
        setting = "encoder.weights" if recipe.encoder.name == VGGISH_ENCODER else "encoder.name"
        hashes[setting] = hash_weights(model.encoder, without=OF_THE_FOLD)
    if model.text is not None:
        hashes["text.encoder"] = hash_weights(model.text, without=OF_THE_FOLD)
    return hashes


def require_same_weights(folder: FoldFolder, fold: int, weights: dict[str, str]) -> None:
    """See that a fold starts from the pre-trained weights that the folds started from which are done.

    Args:
        folder: of the fold.
        fold: its index.
        weights: what `hash_pretrained` told.

    Raises:
        RunError: it does not; raised by all processes.
    """
    run = Run(folder.folder.parent)
    done = [index for index in run.done_folds() if index != fold]
    # Read once: a fold may be done between the looks of two processes.
    told = shared_by_first(differing_weights({**weights_of_folds(run, done), fold: weights}))
    if told:
        raise RunError(
            f"{folder.folder} would start from other weights than the folds that are done\n  "
            + "\n  ".join(told)
            + "\n  put the file back that it was, or train all folds anew with --force; go on all the same with"
            " --resume-anyway (the report will say so)"
        )
