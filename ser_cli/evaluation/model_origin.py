"""Where the models come from that are asked about another corpus: their folders, their run, who taught them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ser_cli.data.store import PreparedCorpus
from ser_cli.errors import RunError
from ser_cli.evaluation.scores import changes_of
from ser_cli.files import read_table
from ser_cli.provenance import read_description, speakers_trained_on
from ser_cli.runs.directory import IDENTITY_NAME, FoldFolder, Run


def model_folders(folder: Path) -> dict[int, Path]:
    """Folders with a model, by fold: those of a run that are done, or the fold's own (0 where it has no number).

    Raises:
        RunError: there is none.
    """
    if (folder / IDENTITY_NAME).is_file():
        run = Run(folder)
        done = run.done_folds()
        if not done:
            raise RunError(f"{folder}: no fold is done yet, so there is no model\n  run the same `ser train` again")
        return {index: run.fold(index).folder for index in done}
    if (folder / "model.json").is_file():
        number = folder.resolve().name.removeprefix("fold-")
        return {int(number) if number.isdecimal() else 0: folder}
    raise RunError(
        f"{folder} holds no model: neither {IDENTITY_NAME} of a run nor model.json of a fold is there\n"
        f"  give the folder that `ser train` printed, or one of its fold folders"
    )


def fold_column(folder: Path, folders: Mapping[int, Path]) -> int:
    """What the column `fold` says: the fold whose model was asked, 0 for all folds of a run together."""
    return next(iter(folders)) if folder in folders.values() else 0


def _provenance(folder: Path) -> dict[str, Any]:
    """Where a model comes from, as its `model.json` says; nothing for models of earlier versions."""
    return read_description(folder).get("provenance") or {}


def _run_of(folder: Path, folders: Mapping[int, Path]) -> Run | None:
    """The run that a folder is, or belongs to."""
    run = Run(folder if folder not in folders.values() else folder.resolve().parent)
    return run if (run.folder / IDENTITY_NAME).is_file() else None


def how_trained(folder: Path, folders: Mapping[int, Path]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """How the epochs of some models were chosen, and what changed while their run went on."""
    run = _run_of(folder, folders)
    facts = {index: FoldFolder(path).facts() for index, path in folders.items() if FoldFolder(path).is_done}
    return tuple(sorted({str(told["selected_by"]) for told in facts.values()})), changes_of(run, facts)


def trained_on(folder: Path, folders: Mapping[int, Path]) -> str:
    """The corpus of the training; empty where neither model nor run tells."""
    told = _provenance(next(iter(folders.values()))).get("dataset")
    if isinstance(told, str):
        return told
    run = _run_of(folder, folders)
    return run.identity().dataset if run else ""


def heard_speakers(
    folder: Path, folders: Mapping[int, Path], corpus: PreparedCorpus, ids: Sequence[str]
) -> dict[str, int]:
    """Clips of each tested speaker who was in training; none where the model comes from another corpus."""
    source = _provenance(next(iter(folders.values()))).get("corpus")
    # A user's own manifests all have the reader `manifest`: there the name alone tells them apart.
    same_reader = source == corpus.preparation.corpus != "manifest"
    if not same_reader and trained_on(folder, folders) != corpus.name:
        return {}
    heard: set[str] = set()
    for index, of_fold in folders.items():
        heard |= set(speakers_trained_on(of_fold)) or _trained_speakers(_run_of(folder, folders), index)
    clips = Counter(corpus.by_id[i].speaker for i in ids)
    return {speaker: clips[speaker] for speaker in sorted(clips) if speaker in heard}


def _trained_speakers(run: Run | None, fold: int) -> set[str]:
    """Who stood on the training and validation side of a fold, from the run's `folds.csv`."""
    if run is None or not run.folds_path.is_file():
        return set()
    try:
        _, rows = read_table(run.folds_path)
        return {row["speaker"] for row in rows if row["fold"] == str(fold) and row["side"] != "test"}
    except (OSError, ValueError, KeyError) as error:
        raise RunError(
            f"{run.folds_path} cannot be read as the folds of a run ({error!r})\n"
            f"  delete it and run the same `ser train` again, which writes it anew"
        ) from None
