"""Recipe files: read like options, overruled by the command line, and those that ship with the project."""

from __future__ import annotations

import tomllib
from pathlib import Path

import click
import pytest

pytest.importorskip("torch")
pytest.importorskip("accelerate")

import train
from musiq.errors import MusiqError
from musiq.training.losses import parse
from musiq.training.recipe import RECIPE_FIELDS, Recipe, recipe_from

RECIPES = sorted((Path(train.__file__).parent / "configs").rglob("*.toml"))


def recipe_of(*words: object) -> Recipe:
    with train.main.make_context("train.py", [str(word) for word in words]) as context:
        return recipe_from(context.params)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_each_recipe_that_ships_is_made_of_options_and_says_what_it_reached_and_where(path: Path) -> None:
    content = tomllib.loads(path.read_text())
    reached = content.pop("reached")
    assert reached["where"]
    assert reached["srcc"] == "not measured" or 0 < reached["srcc"] < 1
    made = recipe_of("--config", path)
    parse(made.loss, made.outputs)
    for key, value in content.items():
        name = key.replace("-", "_")
        if name in RECIPE_FIELDS:
            assert str(getattr(made, name)) == str(value), key


def test_there_are_recipes_for_koniq_and_for_each_ablation() -> None:
    names = {path.stem for path in RECIPES}
    assert {"koniq10k-resnet50", "l1", "ranking", "l1-ranking", "pyramid", "native", "bn-trained"} <= names


def test_the_command_line_wins_over_a_recipe_and_a_recipe_over_the_preset(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('preset = "tiny"\nlr = 0.5\nbatch-size = 3\nflip = false\noutputs = 5\n')
    made = recipe_of("--batch-size", 4, "--config", recipe)
    assert (made.preset, made.lr, made.batch_size, made.flip) == ("tiny", 0.5, 4, False)
    assert (made.epochs, made.outputs, made.loss) == (6, 5, "emd")


@pytest.mark.parametrize(
    ("content", "says"),
    [("learning-rate = 1\n", "there is no option 'learning_rate'"), ("lr: 1\n", "is no TOML"), (None, "Cannot read")],
)
def test_a_recipe_that_is_none_is_one_line(tmp_path: Path, content: str | None, says: str) -> None:
    recipe = tmp_path / "recipe.toml"
    if content is not None:
        recipe.write_text(content)
    with pytest.raises(MusiqError, match=says):
        recipe_of("--config", recipe)


def test_a_trunk_of_timms_takes_the_place_of_the_presets_and_begins_with_its_weights() -> None:
    made = recipe_of("--preset", "musiq", "--trunk", "timm:resnet18", "--freeze", 8, "--fold", "1/5")
    assert (made.trunk, made.trunk_weights, made.freeze, made.fold) == ("timm:resnet18", "download", 8, "1/5")
    assert recipe_of("--trunk", "timm:resnet18", "--trunk-weights", "none").batch_norm == "trained"
    assert recipe_of("--preset", "lite").batch_norm == "frozen"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--trunk", "resnet18"), "expected one of resnet50"),
        (("--trunk", "patch"), "is none of timm's"),
        (("--trunk", "timm:resnet18", "--start", "x.pth"), "is for a new model"),
        (("--preset", "musiq", "--freeze", 8), "would keep random weights"),
        (("--window", "0.5", "--compile"), "--window and --compile exclude each other"),
        (("--fold", "1/5", "--train-on", "train+val"), "says what validates, and .* nothing does"),
    ],
)
def test_options_that_do_not_go_together_are_refused(words: tuple[object, ...], says: str) -> None:
    with pytest.raises(MusiqError, match=says):
        recipe_of(*words)


@pytest.mark.parametrize("option", ["--lr", "--window", "--token-drop", "--ema", "--margin", "--clip"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_what_is_no_finite_number_is_refused(option: str, value: str) -> None:
    with pytest.raises(click.BadParameter, match=r"is no finite number|is not in the range"):
        recipe_of(option, value)


def test_a_value_that_an_option_does_not_take_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text("lr = -1\n")
    with pytest.raises(click.BadParameter, match=r"-1\.0 is not in the range"):
        recipe_of("--config", tmp_path / "recipe.toml")
