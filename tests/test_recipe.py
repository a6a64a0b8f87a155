from itertools import product

import pytest

from ser_cli.commands.options import given, settings_asked
from ser_cli.errors import ProblemsError, UnknownNameError, UsageError
from ser_cli.recipe import Recipe, default_recipe, load_recipe, parse_overrides, shipped_recipes


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


def test_nothing_behind_the_sign_takes_back_what_a_recipe_sets():
    assert load_recipe("lam").encoder.projection_dropout == 0.4
    assert load_recipe("lam", ["encoder.projection_dropout="]).encoder.projection_dropout is None
    built_in = ["encoder.name=conformer", "encoder.layers=0", "encoder.frozen=nothing"]
    with pytest.raises(ProblemsError, match=r"--set encoder\.projection_dropout="):
        load_recipe("lam", built_in)
    assert load_recipe("lam", [*built_in, "encoder.projection_dropout="]).encoder.name == "conformer"
    assert load_recipe("server", ["text.encoder="]).text.encoder == ""
    with pytest.raises(ProblemsError, match=r"optimizer\.learning_rate: must be a valid number"):
        load_recipe("mll", ["optimizer.learning_rate="])


def test_a_table_changes_its_keys_of_the_section_and_the_last_of_several_wins():
    texts = ["mixup.share=0.1", "mixup={method='lam', share=0.3}", "mixup.share=0.2"]
    assert parse_overrides(texts) == {"mixup.share": 0.2, "mixup.method": "lam"}
    recipe = load_recipe("conformer", ["mixup={share=0.3}"])
    assert recipe.mixup.share == 0.3
    assert load_recipe("conformer", ["losses={kl=0.7}"]).losses.focal == load_recipe("conformer").losses.focal
    with pytest.raises(UsageError, match=r"--set mixup=\{\}: an empty table changes nothing"):
        parse_overrides(["mixup={}"])
    with pytest.raises(UsageError, match=r"--set training.epochs=3: an option of its own asks for 5"):
        settings_asked({"training.epochs": 5}, ["training={epochs=3}"])


def test_options_that_are_not_given_change_nothing():
    assert load_recipe("conformer", (), given({"training.epochs": None, "seed": None})) == load_recipe("conformer")
    assert given({"training.epochs": 3, "seed": 0, "encoder.name": None}) == {"training.epochs": 3, "seed": 0}


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
        (
            "pooling.name=median",
            "pooling.name: must be 'flam', 'mean', 'max', 'first' or 'attentive_statistics', found 'median'",
        ),
        ("mixup.share=nan", "must be a finite number"),
        (
            "losses={kl = 0, focal = 0}",
            "losses: kl, focal and cross_entropy are all 0, so nothing would train the classifier: the other losses"
            " work on the features before it; give one of the three a weight",
        ),
        ("losses={kl = 0, focal = 0, contrastive_center = 1, swfc = 1}", "nothing would train the classifier"),
        ("losses.contrastive_center_theta=0", "losses.contrastive_center_theta: must be greater than 0, found 0"),
        ("losses.swfc_form=other", "losses.swfc_form: must be 'positives' or 'printed', found 'other'"),
        (
            "encoder.layers=2",
            "encoder: layers and fusion choose among the layers of a pre-trained encoder, and name is conformer;"
            " leave them out (conformer.layers sets how many it has), or name a pre-trained encoder",
        ),
        ("encoder.fusion=weighted_sum", "or name a pre-trained encoder"),
        ("enc.name=x", "enc: unknown; did you mean encoder?"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_its_key(override, told):
    with pytest.raises(ProblemsError) as error:
        load_recipe("conformer", [override])
    assert told in str(error.value)
    assert error.value.exit_code == 2


@pytest.mark.parametrize("mixing", ["none", "mixup", "lam", "eam"])
@pytest.mark.parametrize("pooling", ["first", "mean", "max", "flam", "attentive_statistics"])
def test_poolings_mixing_rules_and_losses_combine_freely(pooling, mixing):
    names = list(load_recipe("conformer").losses.weights)
    assert len(names) == 8
    for name, classifying in product(names, ("kl", "focal", "cross_entropy")):
        weights = {**dict.fromkeys(names, 0.0), classifying: 1.0, name: 0.5}
        overrides = [f"losses.{key}={value}" for key, value in weights.items()]
        recipe = load_recipe("conformer", [f"pooling.name={pooling}", f"mixup.method={mixing}", *overrides])
        assert recipe.losses.weights == weights
        assert (recipe.pooling.name, recipe.mixup.method) == (pooling, mixing)


def test_the_layers_of_a_pre_trained_encoder_can_be_chosen():
    recipe = load_recipe("mll", ["encoder.layers=22", "encoder.fusion=weighted_sum"])
    assert (recipe.encoder.layers, recipe.encoder.fusion) == (22, "weighted_sum")


def test_the_weights_of_a_recipe_are_those_of_the_losses_that_there_are():
    from ser_cli.losses import LOSS_NAMES, LossWeights

    settings = load_recipe("mll").losses
    assert tuple(settings.weights) == LOSS_NAMES
    assert LossWeights(**settings.weights).as_dict() == {"kl": 1, "focal": 1, "center": 1, "supcon": 1}


@pytest.mark.parametrize("setting", ["projection_dropout=0.4", "fusion=weighted_sum", "checkpoint_activations=true"])
def test_what_acts_in_training_alone_is_refused_where_nothing_is_trained(setting):
    with pytest.raises(ProblemsError, match=r"frozen everything (never trains the encoder|keeps the frames)"):
        load_recipe("mll", ["encoder.frozen=everything", f"encoder.{setting}"])
    load_recipe("mll", ["encoder.frozen=convolutions", f"encoder.{setting}"])


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
    with pytest.raises(UsageError, match="too many for such a file"):
        load_recipe(str(large))
    deep = tmp_path / "deep.toml"
    deep.write_text("seed = " + "[" * 10_000 + "]" * 10_000)
    with pytest.raises(UsageError, match="cannot be read as TOML"):
        load_recipe(str(deep))


def test_the_resolved_recipe_reads_back_as_it_was(tmp_path):
    recipe = load_recipe("mll", ["optimizer.learning_rate=2e-5"], {"seed": 9})
    path = tmp_path / "recipe.toml"
    path.write_text(recipe.as_toml())
    again = load_recipe(str(path))
    assert again == recipe
    assert again.hash == recipe.hash


def test_the_hash_follows_every_setting_but_the_title():
    assert Recipe(title="a").hash == Recipe(title="b").hash
    assert Recipe(seed=1).hash != Recipe(seed=2).hash
