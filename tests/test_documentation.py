"""The README, the manual pages and the completions say what the app does."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import typer

from ser_cli.cli import app
from ser_cli.recipe import load_recipe
from ser_cli.reference import KNOWN_CORPORA, SHELLS, completion_scripts, known_corpora, manual_pages
from tests.conftest import write_tone

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
VERBS = typer.main.get_command(app).commands


@pytest.mark.parametrize(("folder", "made"), [("man", manual_pages()), ("completions", completion_scripts())])
def test_generated_files_are_those_in_the_tree(folder, made):
    there = {path.name: path.read_text() for path in (ROOT / folder).iterdir()}
    assert there == made, "run python -m ser_cli.reference"


def test_what_completion_knows_is_what_the_app_would_write():
    assert (ROOT / KNOWN_CORPORA).read_text() == known_corpora(), "run python -m ser_cli.reference"


@pytest.mark.parametrize("name", manual_pages())
def test_manual_pages_are_sound(name):
    if shutil.which("mandoc") is None:
        pytest.skip("mandoc is not installed")
    result = subprocess.run(["mandoc", "-Tlint", "-Wwarning", ROOT / "man" / name], capture_output=True, text=True)
    assert result.stdout == ""


@pytest.mark.parametrize(("shell", "script"), SHELLS.items())
def test_completion_scripts_are_read_by_their_shell(shell, script):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    result = subprocess.run([shell, "-n", ROOT / "completions" / script], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


def commands_in(text: str) -> list[list[str]]:
    """Every `ser …` line of a text, comments cut off, as words."""
    return [re.split(r"[#|<>]", line)[0].split() for line in text.splitlines() if re.match(r"\s*ser [a-z]", line)]


def options_of(verb: str) -> set[str]:
    return {option for parameter in VERBS[verb].params for option in (*parameter.opts, *parameter.secondary_opts)}


@pytest.mark.parametrize("words", commands_in(README), ids=" ".join)
def test_every_command_of_the_readme_is_one(words):
    verb, *rest = words[1:]
    assert verb in VERBS
    assert {word for word in rest if word.startswith("-")} - {"-"} <= options_of(verb)


@pytest.mark.parametrize("verb", VERBS)
def test_each_help_ends_with_two_examples_that_parse(verb):
    _, *examples = VERBS[verb].epilog.split("\n\n")
    assert len(examples) == 2
    for example in examples:
        words = example.split()
        assert words[:2] == ["ser", verb]
        assert {word for word in words if word.startswith("-")} <= options_of(verb)


@pytest.mark.parametrize("verb", [None, *VERBS])
def test_help_names_every_option(ser, verb):
    result = ser(*([verb] if verb else []), "--help")
    assert result.exit_code == 0
    assert result.stderr == ""
    if verb:
        assert all(option in result.stdout for option in options_of(verb))


def test_the_python_of_the_readme_runs():
    write_tone(Path("happy.wav"), 700)
    write_tone(Path("sad.wav"), 250)
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    names: dict = {}
    exec(code, names)
    assert names["mixture"].weight == pytest.approx(1 / (1 + 10**0.5) * 2400 / len(names["happy"]))
    assert names["frames"].grad.abs().sum() > 0
    assert not names["frames"].grad[:, 40:].any()


def test_every_setting_that_the_readme_names_exists():
    for key in re.findall(r"--set ([a-z_]+\.[a-z_]+)=", README):
        section, name = key.split(".")
        assert hasattr(getattr(load_recipe("conformer"), section), name), key
