"""Taking a folder for a run: a new one, one that goes on, one that goes on changed, or one whose run is deleted."""

import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from ser_cli.errors import RunError
from ser_cli.files import write_json
from ser_cli.runs.directory import IDENTITY_NAME, Run, RunIdentity
from ser_cli.runs.report_files import PAGE_NAME, REPORT_FOLDERS, delete_report_files

RUN_FILES = (
    "recipe.toml",
    "changes.json",
    "environment.json",
    "protocol.json",
    "folds.csv",
    "scores.json",
    "report.md",
    PAGE_NAME,
)


def open_or_create_run(
    folder: Path,
    identity: RunIdentity,
    settings: Mapping[str, str],
    *,
    force: bool = False,
    changed_anyway: bool = False,
) -> Run:
    """Take a folder for a run: a new one, or the one that holds the same run already.

    Args:
        folder: of the run.
        identity: what is asked for.
        settings: of the recipe that is asked for, by key; see `flat_settings`.
        force: delete a different run that lies there.
        changed_anyway: go on with a run of another recipe or corpus, and record what is different.

    Raises:
        RunError: the folder holds something else, or a run that differs; what differs is named.
    """
    require_openable(folder, identity, settings, force=force, changed_anyway=changed_anyway)
    run = Run(folder)
    there = _identity_there(run)
    if there == identity:
        return run
    if there is not None and not force:
        _record_change(run, there, identity, settings)
    elif not _is_free(folder):
        _delete_run(folder)
    write_json(folder / IDENTITY_NAME, asdict(identity))
    return run


def require_openable(
    folder: Path,
    identity: RunIdentity,
    settings: Mapping[str, str],
    *,
    force: bool = False,
    changed_anyway: bool = False,
) -> None:
    """See that `open_or_create_run` would take a folder; nothing is written.

    Raises:
        RunError: the folder holds something else, or a run that differs; what differs is named.
    """
    if _is_free(folder):
        return
    if not (folder / IDENTITY_NAME).is_file():
        if not (force and _is_rest_of_a_run(folder)):
            raise RunError(f"{folder} exists and holds no run; choose a new folder with --output")
        return
    if force:
        return
    run = Run(folder)
    there = run.identity()
    if there != identity:
        _require_changeable(run, there, identity, settings, changed_anyway)


def _is_free(folder: Path) -> bool:
    """Whether nothing lies in a folder, or it is not there yet."""
    # Hidden names are locks, and files that another process of the same run is about to rename into place.
    return not folder.exists() or (folder.is_dir() and all(path.name.startswith(".") for path in folder.iterdir()))


def _identity_there(run: Run) -> RunIdentity | None:
    """What the run of a folder was asked for; None where it holds none, or one that is damaged."""
    try:
        return run.identity()
    except RunError:
        return None


FIXED_SETTINGS = {"selection.by": None, "normalization.by": "clip"}
"""Of the recipe: what cannot change either, and what recipes that do not tell it had. Epochs that were judged by one
rule say nothing under another, and folds that had different information cannot be averaged."""
MAY_CHANGE = frozenset({"recipe", "recipe_hash", "manifest_hash"})
"""Of a run's identity: what `--resume-anyway` goes on over. The rest decides who is tested and on what."""


def _require_changeable(
    run: Run, there: RunIdentity, identity: RunIdentity, settings: Mapping[str, str], changed_anyway: bool
) -> None:
    """See that a run may go on with another recipe or corpus.

    Raises:
        RunError: that was not asked for, or what is different cannot change within a run.
    """
    keys = _differing(there, identity)
    fixed = [key for key in keys if key not in MAY_CHANGE]
    if "recipe_hash" in keys:
        before = run.recipe_settings()
        fixed += [key for key, early in FIXED_SETTINGS.items() if before.get(key, early) != settings.get(key, early)]
    if not changed_anyway or fixed:
        advice = "" if fixed else ", go on with it all the same with --resume-anyway (the report will say so)"
        raise RunError(
            f"{run.folder} holds another run\n  "
            + "\n  ".join(_differences(run, there, identity, settings))
            + f"\n  choose another --output{advice}, or delete what is there with --force"
        )


def _record_change(run: Run, there: RunIdentity, identity: RunIdentity, settings: Mapping[str, str]) -> None:
    """Record that a run goes on with another recipe or corpus."""
    after = f"after fold {', '.join(map(str, done))}" if (done := run.done_folds()) else "before any fold was done"
    sentences = _differences(run, there, identity, settings)
    told = [f"{sentence} ({after})" for sentence in sentences]
    recorded = run.changes()
    if recorded[-len(told) :] != told:  # stopped behind this, the same command comes here again
        write_json(run.changes_path, [*recorded, *told])


def _differing(there: RunIdentity, identity: RunIdentity) -> list[str]:
    """What two identities differ in."""
    found, wanted = asdict(there), asdict(identity)
    return [key for key in wanted if wanted[key] != found[key]]


def _differences(run: Run, there: RunIdentity, identity: RunIdentity, settings: Mapping[str, str]) -> list[str]:
    """A sentence for each difference, of the recipe setting by setting."""
    found, wanted = asdict(there), asdict(identity)
    keys = _differing(there, identity)
    sentences = [f"{key}: {found[key]} there, {wanted[key]} asked for" for key in keys if key != "recipe_hash"]
    if "recipe_hash" not in keys:
        return sentences
    before = run.recipe_settings()
    return sentences + [
        f"{key}: {before.get(key, 'unset')} there, {settings.get(key, 'unset')} asked for"
        for key in {**before, **settings}
        if before.get(key) != settings.get(key)
    ]


def _is_rest_of_a_run(folder: Path) -> bool:
    """Whether a folder holds nothing but what `--force` was deleting when it was stopped."""
    names = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    known = {*RUN_FILES, *REPORT_FOLDERS}
    return all(name in known or re.fullmatch(r"fold-\d+", name) for name in names)


def _delete_run(folder: Path) -> None:
    """Delete what a run wrote, the identity first, and nothing else that lies in its folder."""
    for name in (IDENTITY_NAME, *RUN_FILES):
        (folder / name).unlink(missing_ok=True)
    for path in folder.glob("fold-*"):
        if re.fullmatch(r"fold-\d+", path.name) and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
    delete_report_files(folder, links=True)
