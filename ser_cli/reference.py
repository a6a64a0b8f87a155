"""Manual pages and shell completions, generated from the app: `python -m ser_cli.reference`.

A test compares what lies in `man/` and `completions/` with what this module makes.
"""

import inspect
from pathlib import Path
from typing import Any

import typer
from typer._completion_shared import get_completion_script  # the app's own script, without installing it

from ser_cli import __released__, __version__
from ser_cli.recipe import describe_settings, shipped_recipes

SHELLS = ("bash", "zsh", "fish")

ENVIRONMENT = {
    "SER_HOME": "Folder of prepared corpora; the platform's place for user data where it is not set.",
    "HF_HOME": "Where transformers keeps the encoders it downloads.",
    "OMP_NUM_THREADS": "Cores that one process takes; set it to 1 to train several folds side by side.",
}

EXIT_CODES = {
    "0": "Done.",
    "1": "It could not be done, or some inputs failed; standard error says why.",
    "2": "The command line, a recipe or a manifest asks for something that cannot be.",
    "130": "Interrupted with Ctrl-C.",
}


def manual_pages() -> dict[str, str]:
    """The manual pages by file name, in roff."""
    app = _app()
    pages = {"ser.1": _root_page(app)}
    for name, command in app.commands.items():
        pages[f"ser-{name}.1"] = _verb_page(name, command)
    return pages


def completion_scripts() -> dict[str, str]:
    """The completion scripts by file name."""
    return {
        f"ser.{shell}": get_completion_script(prog_name="ser", complete_var="_SER_COMPLETE", shell=shell) + "\n"
        for shell in SHELLS
    }


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
    lines += [".SH OPTIONS", *_options(app), *_tail()]
    return "\n".join(lines) + "\n"


def _verb_page(name: str, command: Any) -> str:
    first, *rest = _paragraphs(command.help)
    title = first.rstrip(".")
    lines = [*_head(f"SER-{name.upper()}", f"ser\\-{name} \\- {_escape(title[0].lower() + title[1:])}")]
    arguments = " ".join(parameter.metavar for parameter in command.params if _is_argument(parameter))
    lines += [".SH SYNOPSIS", f".B ser {name}", f"[OPTIONS] {arguments}".rstrip(), ".SH DESCRIPTION"]
    lines.append("\n.PP\n".join(_escape(paragraph) for paragraph in rest))
    lines += [".SH OPTIONS", *_options(command)]
    if name == "train":
        lines += [".SH RECIPES", "Shipped: " + ", ".join(shipped_recipes()) + ".", ".SH SETTINGS"]
        lines.append(_escape("What a recipe may hold and --set may change."))
        for key, default, meaning in describe_settings():
            lines += [".TP", f".B {_escape(key)}", _escape(f"{meaning} Default: {default or 'none'}.")]
    _, *examples = command.epilog.split("\n\n")
    lines += [".SH EXAMPLES", "\n.PP\n".join(f".B {_escape(example)}" for example in examples)]
    return "\n".join([*lines, *_tail()]) + "\n"


def _head(title: str, name: str) -> list[str]:
    return [f'.TH {title} 1 "{__released__}" "ser {__version__}" "User Commands"', ".SH NAME", name]


def _tail() -> list[str]:
    lines = [".SH ENVIRONMENT"]
    for name, meaning in ENVIRONMENT.items():
        lines += [".TP", f".B {name}", _escape(meaning)]
    lines += [".SH EXIT STATUS"]
    for code, meaning in EXIT_CODES.items():
        lines += [".TP", f".B {code}", _escape(meaning)]
    return lines


def _options(command: Any) -> list[str]:
    lines = []
    for parameter in command.params:
        if _is_argument(parameter):
            lines += [".TP", f".I {parameter.metavar}", _escape(parameter.help or "")]
            continue
        names = ", ".join(sorted(parameter.opts, key=len))
        value = "" if parameter.is_flag else f" {parameter.metavar}"
        default = parameter.default
        shown = f" Default: {default}." if isinstance(default, str) and default else ""
        lines += [".TP", f".B {_escape(names + value)}", _escape((parameter.help or "") + shown)]
    return lines


def _is_argument(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "argument")


def _paragraphs(text: str) -> list[str]:
    return [" ".join(paragraph.split()) for paragraph in inspect.cleandoc(text).split("\n\n")]


def _escape(text: str) -> str:
    """Text as roff prints it: backslashes and hyphens literal, no line that starts with a control character."""
    text = " ".join(text.split()).replace("\\", "\\e").replace("-", "\\-").replace("…", "\\&...")
    return f"\\&{text}" if text.startswith((".", "'")) else text


def write_reference(root: Path) -> None:
    """Write `man/` and `completions/` below a folder."""
    for folder, files in (("man", manual_pages()), ("completions", completion_scripts())):
        (root / folder).mkdir(exist_ok=True)
        for name, text in files.items():
            (root / folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_reference(Path(__file__).parent.parent)
