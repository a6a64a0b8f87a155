import pytest

from ser_cli.errors import ProblemsError, UnknownNameError, UsageError
from ser_cli.recipe import Recipe, default_recipe, load_recipe, shipped_recipes


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_loads_and_opens_with_its_command(name):
    assert load_recipe(name).title
    first_line = shipped_recipes()[name].splitlines()[0]
    assert first_line.startswith("# ser train --dataset ")


def test_the_papers_recipe_is_the_papers():
    recipe = load_recipe("mll")
    assert recipe.encoder.name == "microsoft/wavlm-large"
    assert recipe.mixup.method == "eam"
    assert (recipe.mixup.snr_min_db, recipe.mixup.snr_max_db) == (-5, 10)
    assert (recipe.pooling.name, recipe.pooling.heads) == ("flam", 16)
    assert recipe.losses.projection_dim == 64
    assert recipe.losses.weighting == "auto"
    assert (recipe.optimizer.learning_rate, recipe.optimizer.center_learning_rate) == (1e-4, 5e-3)
    assert (recipe.optimizer.decay, recipe.optimizer.decay_epochs) == (7 / 8, 20)
    assert recipe.optimizer.weight_decay == 0
    assert recipe.training.batch_size == 16


def test_the_default_recipe_follows_corpus_and_encoder():
    assert default_recipe("ravdess", None) == "mll"
    assert default_recipe("ravdess", "conformer") == "conformer"
    assert default_recipe("ravdess", "some/folder") == "mll"
    assert default_recipe("demo", None) == "demo"
    assert default_recipe("demo", "some/folder") == "mll"


def test_set_changes_one_setting_and_keeps_its_type():
    recipe = load_recipe("conformer", ["optimizer.learning_rate=3e-5", "pooling.name=mean", "training.epochs = 7"])
    assert recipe.optimizer.learning_rate == 3e-5
    assert recipe.pooling.name == "mean"
    assert recipe.training.epochs == 7
    assert recipe.optimizer.schedule == load_recipe("conformer").optimizer.schedule


def test_options_that_are_not_given_change_nothing():
    assert load_recipe("conformer", training__epochs=None, seed=None) == load_recipe("conformer")


def test_all_problems_of_a_recipe_are_told_together(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[optimizer]\nlearning_rte = 1e-4\n[training]\nepochs = 0\n")
    with pytest.raises(ProblemsError) as error:
        load_recipe(str(path))
    text = str(error.value)
    assert text.startswith(f"recipe {path}: 2 problems")
    assert "optimizer.learning_rte: unknown; did you mean learning_rate?" in text
    assert "training.epochs: must be greater than or equal to 1, found 0" in text
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("mixup.snr_min_db=20", "snr_min_db 20.0 exceeds snr_max_db 10.0"),
        ("conformer.kernel_size=8", "kernel_size must be odd, found 8"),
        ("mixup.max_overlap=0.7", "mixup.max_overlap: must be less than or equal to 0.5, found 0.7"),
        ("pooling.name=median", "pooling.name: must be 'flam', 'mean' or 'max', found 'median'"),
        ("mixup.share=nan", "must be a finite number"),
        ("losses={kl = 0, focal = 0}", "nothing would train the classifier"),
        ("enc.name=x", "enc: unknown; did you mean encoder?"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_its_key(override, told):
    with pytest.raises(ProblemsError) as error:
        load_recipe("conformer", [override])
    assert told in str(error.value)
    assert error.value.exit_code == 2


def test_a_setting_in_the_place_of_a_section_is_refused():
    with pytest.raises(UsageError, match="training is a setting, not a section"):
        load_recipe("conformer", ["training=3", "training.epochs=3"])
    with pytest.raises(ProblemsError, match="training: must be a valid dictionary"):
        load_recipe("conformer", ["training=3"])


def test_an_override_without_a_value_is_refused():
    with pytest.raises(UsageError, match="expected key=value"):
        load_recipe("conformer", ["training.epochs"])


def test_an_unknown_recipe_suggests_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean conformer"):
        load_recipe("confromer")


def test_a_file_that_is_no_toml_is_refused(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("epochs: 3\n")
    with pytest.raises(UsageError, match="cannot be read as TOML"):
        load_recipe(str(path))


def test_a_recipe_of_many_bytes_or_great_depth_fails_with_a_sentence(tmp_path):
    large = tmp_path / "large.toml"
    large.write_bytes(b"#" * (1 << 20) + b"##")
    with pytest.raises(UsageError, match="too many for a recipe"):
        load_recipe(str(large))
    deep = tmp_path / "deep.toml"
    deep.write_text("seed = " + "[" * 10_000 + "]" * 10_000)
    with pytest.raises(UsageError, match="cannot be read as TOML"):
        load_recipe(str(deep))


def test_the_resolved_recipe_reads_back_as_it_was(tmp_path):
    recipe = load_recipe("mll", ["optimizer.learning_rate=2e-5"], seed=9)
    path = tmp_path / "recipe.toml"
    path.write_text(recipe.as_toml())
    again = load_recipe(str(path))
    assert again == recipe
    assert again.hash == recipe.hash


def test_the_hash_follows_every_setting_but_the_title():
    assert Recipe(title="a").hash == Recipe(title="b").hash
    assert Recipe(seed=1).hash != Recipe(seed=2).hash
