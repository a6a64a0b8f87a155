"""Manual pages and shell completions, generated from the app: `python -m ser_cli.reference`.

A test compares what lies in `man/`, `completions/` and `commands/known_corpora.py` with what this module makes.
"""

import inspect
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import typer
from typer._completion_shared import get_completion_script  # the app's own script, without installing it

from ser_cli import __released__, __version__
from ser_cli.recipe import describe_settings, shipped_recipes

SHELLS = {"bash": "ser.bash", "zsh": "_ser", "fish": "ser.fish"}
"""The name under which each shell looks for the completion of `ser`."""

ZSH_START = """\
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
  _ser_completion "$@"
else
  compdef _ser_completion ser
fi
"""
"""Replaces the script's last line, which registers the function and answers nothing: the first TAB after zsh loaded
the file from `fpath` is already a question."""

KNOWN_CORPORA = "ser_cli/commands/known_corpora.py"
"""What completion knows of the corpora; reading it takes a tenth of the time that the readers themselves take."""

EXIT_CODES = {
    "0": "Done.",
    "1": "It could not be done, or some inputs failed; standard error says why.",
    "2": "The command line, a recipe or a manifest asks for something that cannot be.",
    "129": "Training was stopped by SIGHUP, since the terminal was closed, and wrote a checkpoint; the same command"
    " goes on from there.",
    "130": "Interrupted with Ctrl-C; the same command goes on from there.",
    "138": "The same, stopped by SIGUSR1.",
    "141": "Whoever read standard output went away, such as head(1).",
    "143": "As 129, stopped by SIGTERM.",
}

ENVIRONMENT = {
    "SER_HOME": "Data home: the folder of prepared corpora; the platform's place for user data where it is not set.",
    "HF_HOME": "Where transformers keeps the encoders it downloads.",
    "HF_HUB_OFFLINE": "Set to 1, nothing is downloaded from the hub; what HF_HOME holds is used.",
    "OMP_NUM_THREADS": "Cores that one process takes; set it to 1 to train several folds side by side.",
    "CUDA_VISIBLE_DEVICES": "GPUs that a process may use.",
}

CORPUS_FILES = {
    "$SER_HOME/corpora/NAME/manifest.csv": "Read: one row per utterance of a prepared corpus, with id, path, emotion,"
    " speaker, session, gender, text and duration_s.",
    "$SER_HOME/corpora/NAME/audio.f32": "Read: all waveforms, 16 kHz mono, mapped into memory and shared by processes.",
}

FILES: dict[str, dict[str, str]] = {
    "ser": {
        "$SER_HOME/corpora/NAME/": "A prepared corpus; ser-prepare(1).",
        "$SER_HOME/sources/NAME/": "Recordings that were downloaded or rendered.",
        "RUN/": "What training leaves, runs/DATASET-RECIPE-ENCODER-HASH unless told otherwise; ser-train(1).",
    },
    "prepare": {
        "DIR/": "Read: the recordings that --source names; never written to.",
        "$SER_HOME/sources/NAME/": "Recordings that --download fetched, or that a corpus rendered.",
        "$SER_HOME/corpora/NAME/manifest.csv": "One row per utterance: id, path, emotion, speaker, session, gender,"
        " text, duration_s, and what else the corpus has.",
        "$SER_HOME/corpora/NAME/audio.f32, audio.csv": "All waveforms, 16 kHz mono, and where in the file each lies.",
        "$SER_HOME/corpora/NAME/report.json": "What a complete corpus would hold and what was found.",
        "$SER_HOME/corpora/NAME/skipped.csv, missing.txt": "What was left out and why; what was not there.",
        "$SER_HOME/corpora/NAME/prepared.json": "Written last: the rest is whole.",
    },
    "mix": {
        **CORPUS_FILES,
        "DIR/audio/": "The mixtures, 16 kHz mono FLAC of 16 bits.",
        "DIR/metadata.csv": "What each is made of, and its soft label; the layout of datasets' audiofolder.",
        "DIR/plan.csv": "The choices alone; --plan makes the same bytes of them.",
        "DIR/index.html": "One page to listen and look, without --no-page.",
        "DIR/manifest.csv, originals/": "With --with-originals: a corpus for ser train --manifest.",
    },
    "train": {
        **CORPUS_FILES,
        "RUN/run.json": "What was asked for: dataset, protocol, labels, seed and hashes.",
        "RUN/recipe.toml": "The resolved recipe; --recipe RUN/recipe.toml repeats it.",
        "RUN/environment.json": "Versions, device and command.",
        "RUN/protocol.json, folds.csv": "Who is tested when, as a rule and as every clip's side.",
        "RUN/fold-I/history.csv": "One row per epoch, each loss apart.",
        "RUN/fold-I/model.safetensors, model.json": "The tested weights and how to rebuild the model.",
        "RUN/fold-I/predictions.csv": "id, fold, truth, predicted, and one probability column per label.",
        "RUN/fold-I/embeddings.npz": "With --embeddings: embeddings and frame attention.",
        "RUN/fold-I/checkpoints/": "While the fold is trained: its last two checkpoints, to go on from.",
        "RUN/fold-I/done.json": "Written last: the fold is done and is not trained again.",
        "RUN/changes.json": "What --resume-anyway went on over; reports tell it.",
        "RUN/.fold-I.lock, .fold-I.lock.holder": "Who trains the fold.",
        "RUN/scores.json, report.md": "Written by the process that finishes the last fold.",
    },
    "ablate": {
        **CORPUS_FILES,
        "STUDY/study.json": "What was asked for, and every setting of each cell.",
        "STUDY/cells/NN-NAME/seed-K/": "One run; ser-train(1).",
        "STUDY/scores.json": "What --json prints.",
        "STUDY/report.md, report.html, figures/, tables/": "Written anew by every command.",
    },
    "evaluate": {
        "RUN/run.json, fold-I/predictions.csv": "Read: what was asked for, and what was predicted.",
        "RUN/fold-I/history.csv, embeddings.npz": "Read where they are there, for the pictures.",
        "RUN/fold-I/model.safetensors, model.json": "Read with --dataset or --manifest: the models that are asked.",
        "RUN/scores.json": "All rates, in [0, 1]; what --json prints.",
        "RUN/report.md, report.html": "The report; the page holds its pictures and needs nothing else.",
        "RUN/figures/, RUN/tables/": "Pictures as SVG and PNG; tables as Markdown, LaTeX and CSV.",
        "DIR/": "With --output: the same files, which a comparison or another corpus leaves nowhere else; of another"
        " corpus predictions.csv too.",
    },
    "predict": {
        "RUN/fold-I/model.safetensors, model.json": "Read: the weights, labels and preprocessing of each fold.",
        "AUDIO": "Read: any format, rate and number of channels that soundfile or FFmpeg decode.",
        "FILE": "Written with --output: what would stand on standard output; a call that stopped goes on there.",
    },
}
"""What a verb reads and writes, by its name; `ser` stands for the program and for verbs that are not listed."""


def manual_pages() -> dict[str, str]:
    """The manual pages by file name, in roff."""
    app = _app()
    pages = {"ser.1": _root_page(app)}
    for name, command in app.commands.items():
        pages[f"ser-{name}.1"] = _verb_page(name, command, app.commands)
    return pages


def completion_scripts() -> dict[str, str]:
    """The completion scripts by file name."""
    scripts = {
        shell: get_completion_script(prog_name="ser", complete_var="_SER_COMPLETE", shell=shell) + "\n"
        for shell in SHELLS
    }
    scripts["zsh"] = scripts["zsh"].replace("compdef _ser_completion ser\n", ZSH_START)
    return {SHELLS[shell]: script for shell, script in scripts.items()}


def known_corpora() -> str:
    """The text of the module that tells completion what the corpora are called and have."""
    from ser_cli.corpora import CORPORA
    from ser_cli.data.protocols import shipped_protocols

    tables = {
        "TITLES": {name: corpus.title for name, corpus in CORPORA.items()},
        "RENDERED": [name for name, corpus in CORPORA.items() if corpus.render],
        "LABEL_SETS": {
            name: {kept.name: ", ".join(map("+".join, kept.merged.values())) for kept in corpus.label_sets}
            for name, corpus in CORPORA.items()
        },
        "PROTOCOLS": {
            name: {protocol.name: f"{len(protocol.test)} folds by {protocol.unit}" for protocol in shipped}
            for name in CORPORA
            if (shipped := shipped_protocols(name))
        },
    }
    lines = ['"""What TAB offers of the known corpora; made by `python -m ser_cli.reference`."""', "", "# fmt: off"]
    for name, table in tables.items():
        lines += ["", f"{name} = {json.dumps(table, indent=4, ensure_ascii=False)}"]
    return "\n".join(lines) + "\n"


def _app() -> Any:
    from ser_cli.cli import app

    return typer.main.get_command(app)


def _root_page(app: Any) -> str:
    lines = [*_head("SER", "ser \\- speech emotion recognition from the command line")]
    lines += [
        ".SH SYNOPSIS",
        ".B ser",
        "COMMAND [OPTIONS]",
        ".SH DESCRIPTION",
        _escape(app.help),
        ".SH COMMANDS",
    ]
    for name, command in app.commands.items():
        lines += [".TP", f".BR ser\\-{name} (1)", _escape(_paragraphs(command.help)[0])]
    lines += [".SH OPTIONS", *_options(app), *_tail("ser")]
    lines += [".SH EXAMPLES", *_examples(["ser train --dataset demo --output runs/demo", "ser evaluate runs/demo"])]
    return "\n".join([*lines, *_see_also(f"ser-{name}" for name in app.commands)]) + "\n"


def _verb_page(name: str, command: Any, verbs: Iterable[str]) -> str:
    first, *rest = _paragraphs(command.help)
    title = first.rstrip(".")
    lines = [*_head(f"SER-{name.upper()}", f"ser\\-{name} \\- {_escape(title[0].lower() + title[1:])}")]
    lines += [".SH SYNOPSIS", f".B ser {name}", _synopsis(command), ".SH DESCRIPTION"]
    lines.append("\n.PP\n".join(_escape(paragraph) for paragraph in rest or [first]))
    lines += [".SH OPTIONS", *_options(command)]
    if name == "train":
        lines += [".SH RECIPES", "Shipped: " + ", ".join(shipped_recipes()) + ".", ".SH SETTINGS"]
        lines.append(
            _escape(
                "What a recipe may hold and --set may change. The defaults are those of a recipe that is"
                " silent; --dry-run prints what a recipe comes to."
            )
        )
        lines += _definitions(
            {key: f"{meaning} Default: {default or 'none'}." for key, default, meaning in describe_settings()}
        )
    _, *examples = command.epilog.split("\n\n")
    lines += [*_tail(name), ".SH EXAMPLES", *_examples(examples)]
    return "\n".join([*lines, *_see_also(["ser", *(f"ser-{verb}" for verb in verbs if verb != name)])]) + "\n"


def _synopsis(command: Any) -> str:
    """What must be given, then that options may, then arguments."""
    required = [f"{parameter.opts[0]} {parameter.metavar}" for parameter in command.params if _is_required(parameter)]
    arguments = [
        (parameter.metavar if parameter.required else f"[{parameter.metavar}]") + ("..." if parameter.nargs < 0 else "")
        for parameter in command.params
        if _is_argument(parameter)
    ]
    return _escape(" ".join([*required, "[OPTIONS]", *arguments]))


def _head(title: str, name: str) -> list[str]:
    return [f'.TH {title} 1 "{__released__}" "ser {__version__}" "User Commands"', ".SH NAME", name]


def _tail(verb: str) -> list[str]:
    lines = [".SH EXIT STATUS", *_definitions(EXIT_CODES)]
    lines += [".SH ENVIRONMENT", *_definitions(ENVIRONMENT)]
    return [*lines, ".SH FILES", *_definitions(FILES.get(verb, {}) or FILES["ser"])]


def _see_also(pages: Iterable[str]) -> list[str]:
    *first, last = [f".BR {page.replace('-', chr(92) + '-')} (1)" for page in pages]
    return [".SH SEE ALSO", *(f"{page}," for page in first), last]


def _examples(commands: Iterable[str]) -> list[str]:
    return ["\n.PP\n".join(f".B {_escape(command)}" for command in commands)]


def _definitions(meanings: dict[str, str]) -> list[str]:
    """Terms and what they mean."""
    return [line for term, text in meanings.items() for line in (".TP", f".B {_escape(term)}", _escape(text))]


def _options(command: Any) -> list[str]:
    lines = []
    for parameter in command.params:
        if _is_argument(parameter):
            lines += [".TP", f".I {_escape(parameter.metavar)}", _escape(parameter.help or "")]
            continue
        names = ", ".join([*sorted(parameter.opts, key=len), *parameter.secondary_opts])
        value = "" if parameter.is_flag else f" {parameter.metavar}"
        lines += [".TP", f".B {_escape(names + value)}", _escape((parameter.help or "") + _told(parameter))]
    return lines


def _told(parameter: Any) -> str:
    """What an option is where it is not given, unless its text says so or it is simply off."""
    if parameter.required:
        return " Required."
    told = getattr(parameter, "show_default", None)
    default = told if isinstance(told, str) else getattr(parameter.default, "value", parameter.default)
    is_off = default is None or default is False or default in ("", ())
    if is_off or callable(default) or "(default" in (parameter.help or ""):
        return ""
    return f" Default: {parameter.opts[0] if default is True else default}."


def _is_required(parameter: Any) -> bool:
    return bool(parameter.required and not _is_argument(parameter))


def _is_argument(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "argument")


def _paragraphs(text: str) -> list[str]:
    return [" ".join(paragraph.split()) for paragraph in inspect.cleandoc(text).split("\n\n")]


def _escape(text: str) -> str:
    """Text as roff prints it: backslashes and hyphens literal, no line that starts with a control character."""
    text = " ".join(text.split()).replace("\\", "\\e").replace("-", "\\-").replace("…", "\\&...")
    return f"\\&{text}" if text.startswith((".", "'")) else text


def write_reference(root: Path) -> None:
    """Write `commands/known_corpora.py`, which the app needs, then `man/` and `completions/` below a folder."""
    (root / KNOWN_CORPORA).write_text(known_corpora(), encoding="utf-8")
    for folder, files in (("man", manual_pages()), ("completions", completion_scripts())):
        (root / folder).mkdir(exist_ok=True)
        for name, text in files.items():
            (root / folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_reference(Path(__file__).parent.parent)
