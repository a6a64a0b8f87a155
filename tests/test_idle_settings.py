"""`--set` warns of what nothing reads: such a change gives the same model, bit by bit."""

from pathlib import Path

import pytest

from ser_cli.ablation.grids import load_grid, shipped_grids
from ser_cli.idle_settings import READINGS, idle_cells, idle_settings, why_idle
from ser_cli.recipe import load_recipe
from tests.conftest import TINY

OTHER_VALUES = {
    "mixup.share": "0.9",
    "mixup.snr_min_db": "-1",
    "mixup.snr_max_db": "3",
    "mixup.max_overlap": "0.2",
    "mixup.lam_lambda": "0.3",
    "mixup.mixup_alpha": "0.7",
    "pooling.heads": "2",
    "pooling.attention_dim": "5",
    "tasks.alpha": "0.2",
    "tasks.hidden_dim": "7",
    "tasks.dropout": "0.4",
    "tasks.lstm_dim": "7",
    "losses.calibration_batches": "1",
    "losses.focal_gamma": "4",
    "losses.temperature": "0.9",
    "losses.center_reads": "classifier_input",
    "losses.contrastive_center_theta": "3",
    "losses.swfc_gamma": "1",
    "losses.swfc_temperature": "0.1",
    "losses.swfc_form": "printed",
    "optimizer.center_learning_rate": "0.5",
    "optimizer.decay": "0.5",
    "optimizer.decay_epochs": "1",
    "optimizer.step_epochs": "1",
    "optimizer.warmup_epochs": "1",
    "training.group_by_length": "false",
    "normalization.group": "3",
    "selection.validation_speakers": "1",
    "selection.validation_share": "0.3",
    "selection.patience": "1",
    "encoder.cache_gb": "0.5",
    "conformer.dim": "24",
    "conformer.crop_s": "0.2",
    "conformer.noise_share": "0.9",
    "conformer.trim_over_noise_db": "20",
    "conformer.background_margin_ms": "50",
    "conformer.background_min_snr_db": "20",
    "conformer.background_max_snr_db": "30",
    "conformer.noise_min_snr_db": "5",
    "conformer.noise_max_snr_db": "30",
    "conformer.mixstyle_alpha": "2",
    "text.frozen": "true",
    "text.max_tokens": "16",
    "text.fusion": "attention",
    "text.heads": "2",
}
"""Of every setting that may be idle, one that is not its default; of a whole section some."""
PLAIN = ("pooling.name=mean", "losses.focal=0", "losses.center=0", "losses.supcon=0", "losses.weighting=fixed")
SILENT = (
    "conformer.background_share=0",
    "conformer.noise_share=0",
    "conformer.mixstyle_share=0",
    "conformer.trim_db=0",
    "conformer.trim_jitter_db=0",
)
BASES = {
    "nothing-but-kl": (
        *PLAIN,
        *SILENT,
        "losses.speaker_relative=0",
        "mixup.method=none",
        "selection.by=last",
        "optimizer.schedule=cosine",
    ),
    "learnt-by-speaker": ("losses.speaker_relative=1", "selection.by=last", "conformer.background_share=0"),
    "mixes-no-clip": (
        "mixup.share=0",
        "losses.speaker_relative=0",
        "losses.center=0",
        "losses.contrastive_center=0",
        "optimizer.schedule=step",
    ),
    "clips-choose": (
        "mixup.method=lam",
        "losses.speaker_relative=0",
        "selection.by=validation",
        "selection.validation_share=0.3",
        "optimizer.schedule=exponential",
    ),
}


def changes_without_effect(base: tuple[str, ...], recipe: str = "conformer") -> list[str]:
    """Other values of all settings that a recipe with some changes is said not to read."""
    resolved = load_recipe(recipe, base)
    return [f"{key}={value}" for key, value in OTHER_VALUES.items() if why_idle(resolved, key)]


def train(ser, manifest: Path, output: str, *options: object) -> tuple[bytes, bytes, str]:
    """The weights and predictions of one fold, and what was said."""
    result = ser("train", "--manifest", manifest, "--folds", 2, "--fold", 1, *options, "--output", output)
    assert result.exit_code == 0, result.stderr
    fold = Path(output) / "fold-1"
    return (fold / "model.safetensors").read_bytes(), (fold / "predictions.csv").read_bytes(), result.stderr


def as_options(changes) -> tuple[str, ...]:
    return tuple(part for change in changes for part in ("--set", change))


def test_each_setting_that_may_be_idle_is_so_in_one_of_the_trained_recipes():
    tried = {change.partition("=")[0] for base in BASES.values() for change in changes_without_effect(base)}
    assert tried | {"conformer.dim", "conformer.crop_s", "conformer.noise_share"} == set(OTHER_VALUES)
    for reading in READINGS:
        for key in reading.settings.split():
            section = key.removesuffix("*")
            assert any(other == key or (key.endswith("*") and other.startswith(section)) for other in OTHER_VALUES), key


@pytest.mark.slow
@pytest.mark.parametrize("base", BASES)
def test_what_is_said_to_be_idle_changes_no_bit(base, ser, tones):
    options = (*TINY[: TINY.index("--select")], *as_options(BASES[base]))
    idle = changes_without_effect(BASES[base])
    assert len(idle) > 5
    plain = train(ser, tones, "plain", *options)
    changed = train(ser, tones, "changed", *options, *as_options(idle))
    assert changed[:2] == plain[:2]
    for change in idle:
        assert f"warning: --set {change} changes nothing: {change.partition('=')[0]} is not read, since " in changed[2]
    assert "changes nothing" not in plain[2]


@pytest.mark.slow
def test_with_another_encoder_the_built_in_one_is_idle(ser, tones, wavlm):
    options = ("--encoder", wavlm, "--recipe", "mll", "--epochs", 1, "--device", "cpu")
    idle = [change for change in changes_without_effect(("encoder.name=wavlm",), "mll") if change.startswith("conf")]
    assert len(idle) > 5
    assert train(ser, tones, "changed", *options, *as_options(idle))[:2] == train(ser, tones, "plain", *options)[:2]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["mixup.lam_lambda=0.3"], "mixup.lam_lambda is not read, since mixup.method is eam"),
        (["mixup.method=none", "mixup.share=1"], "mixup.share is not read, since mixup.method is none"),
        (["losses.focal = 0", "losses.focal_gamma = 3"], "losses.focal_gamma is not read, since losses.focal is 0"),
        (
            ["losses.center=0", "losses.center_reads=projection"],
            "losses.center_reads is not read, since losses.center is 0 and losses.contrastive_center is 0",
        ),
        (["text.heads=4"], "text.heads is not read, since text.encoder is empty"),
        (["tasks.lstm_dim=8", "head.name=branches"], "tasks.lstm_dim is not read, since tasks.characters is false"),
    ],
)
def test_the_sentence_names_what_decides(changes, sentence):
    told = list(idle_settings([load_recipe("conformer", changes)], changes))
    assert [each.partition(" changes nothing: ")[2] for each in told] == [sentence]


def test_what_is_read_is_not_warned_of():
    active = {
        "mixup.": ["mixup.method=eam"],
        "mixup.lam_lambda": ["mixup.method=lam"],
        "mixup.mixup_alpha": ["mixup.method=mixup"],
        "pooling.attention_dim": ["pooling.name=attentive_statistics"],
        "tasks.": ["head.name=branches", "tasks.gender=true", "tasks.characters=true", "conformer.crop_s=20"],
        "losses.": ["losses.weighting=auto", "losses.swfc=1", "losses.contrastive_center=1"],
        "optimizer.decay": ["optimizer.schedule=exponential"],
        "optimizer.step_epochs": ["optimizer.schedule=step"],
        "training.group_by_length": ["losses.speaker_relative=0"],
        "selection.": ["selection.by=validation"],
        "encoder.cache_gb": ["encoder.name=wavlm", "encoder.frozen=everything"],
        "text.": ["text.encoder=bert", "text.fusion=attention", "mixup.method=none"],
    }
    for key in OTHER_VALUES:
        longest = max((prefix for prefix in active if key.startswith(prefix)), key=len, default="")
        assert why_idle(load_recipe("conformer", active.get(longest, [])), key) == "", key


def test_a_study_warns_where_no_cell_reads_it(ser, tones):
    command = ("ablate", "--manifest", tones, "--grid", "conformer-method", "--folds", 2, "--dry-run")
    options = ("--set", "mixup.lam_lambda=0.3", "--set", "pooling.attention_dim=5", "--set", "mixup.mixup_alpha=1")
    told = ser(*command, "--cells", "1,4,5", *options).stderr
    assert "mixup.lam_lambda" not in told
    assert "warning: --set pooling.attention_dim=5 changes nothing: pooling.attention_dim is not read, since" in told
    assert (
        "warning: --set mixup.mixup_alpha=1 changes nothing: mixup.mixup_alpha is not read, since mixup.method is eam"
        in told
    )


def test_a_cell_that_changes_nothing_is_told_and_one_that_changes_something_is_not():
    changes = {
        "whole": {},
        "idle": {"mixup.lam_lambda": 0.3},
        "half": {"mixup.method": "none", "mixup.share": 0},
        "seed": {"seed": 3},
    }
    recipes = {
        name: load_recipe("conformer", [f"{key}={value}" for key, value in of_cell.items() if key != "seed"])
        for name, of_cell in changes.items()
    }
    assert list(idle_cells(changes, recipes, recipes["whole"])) == [
        "cell idle changes nothing: mixup.lam_lambda is not read, since mixup.method is eam"
    ]


def test_no_cell_of_a_shipped_grid_changes_nothing():
    for name in shipped_grids():
        grid = load_grid(name)
        changes = {cell.name: cell.changes for cell in grid.cells}
        assert not list(idle_cells(changes, {c.name: c.recipe for c in grid.cells}, grid.reference.recipe)), name


def test_a_change_in_the_form_of_a_table_is_told_key_by_key():
    change = "mixup={lam_lambda = 0.3, share = 0.4}"
    told = list(idle_settings([load_recipe("mll", [change])], [change]))
    assert told == [f"mixup.lam_lambda in --set {change} changes nothing: mixup.lam_lambda is not read, since"
                    " mixup.method is eam"]  # fmt: skip
