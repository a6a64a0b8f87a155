"""`ser ablate` says of tasks what was trained, not what was asked for."""

import csv
import json
from pathlib import Path

import pytest

from tests.conftest import SMALL
from tests.test_multi_task import edit

GRID = """
title = "tasks"
recipe = "conformer"
reference = "emotion"
components = [{ title = "characters", setting = "tasks.characters" },
              { title = "speaker", setting = "tasks.speaker" },
              { title = "co-attention", setting = "tasks.fusion", value = "co_attention" }]
[changes]
conformer.crop_s = 20
head.name = "branches"
selection.by = "last"
tasks.hidden_dim = 8
tasks.lstm_dim = 8
[[cells]]
name = "emotion"
[[cells]]
name = "characters"
changes.tasks = { characters = true, fusion = "co_attention" }
[[cells]]
name = "both"
changes.tasks = { characters = true, speaker = true, fusion = "co_attention" }
"""


@pytest.fixture
def ablate(ser, few):
    """Study the grid on a corpus without a text."""
    bare = edit(few, lambda row: {"text": ""})
    Path("tasks.toml").write_text(GRID)
    command = ["ablate", "--manifest", bare, "--grid", "tasks.toml", "--output", "study", "--folds", 2, *SMALL]
    return lambda *options: ser(*command, "--epochs", 1, *options)


def marks() -> dict[str, list[str]]:
    with Path("study/tables/ablation.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {row["name"]: [row[name] for name in list(row) if name.startswith("tasks.")] for row in rows}


def test_a_task_that_no_fold_learnt_has_no_check_mark(ablate):
    result = ablate("--json")
    assert result.exit_code == 0, result.stderr
    assert marks() == {
        "emotion": ["", "", ""],
        "characters": ["without characters", "", "without tasks"],
        "both": ["without characters", "✓", "✓"],
    }
    for sentence in ("Cell 2 (characters): task", "Cell 3 (both): task"):
        told = f"{sentence} characters is left out in 2 of 2 folds: no training clip has a text."
        assert told in Path("study/report.md").read_text()
        assert told in result.stderr
    emotion, characters, both = json.loads(result.stdout)["cells"]
    assert emotion["tasks_left_out"] == []
    assert characters["components"] == {"characters": False, "speaker": False, "co-attention": False}
    assert both["components"] == {"characters": False, "speaker": True, "co-attention": True}
    reason = "no training clip has a text"
    assert both["tasks_left_out"] == [
        {"seed": 0, "fold": fold, "task": "characters", "reason": reason} for fold in (1, 2)
    ]
    path = Path("study/cells/02-characters/seed-0/fold-2/done.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "tasks": {"learnt": {}, "left_out": {}}}))
    again = ablate()
    assert again.exit_code == 0, again.stderr
    assert marks()["characters"] == ["✓ in 1 of 2", "", "✓ in 1 of 2"]
    assert "task characters is left out in 1 of 2 folds" in again.stderr


def test_before_a_fold_is_done_the_marks_are_what_is_asked_for(ablate):
    assert ablate("--cells", 1).exit_code == 0
    assert marks()["both"] == ["✓", "✓", "✓"]
