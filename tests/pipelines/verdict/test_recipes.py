"""The shipped recipes fit every shipped data set, and are wrong for none by mistake."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from twotower.pipelines.cli import main
from twotower.pipelines.config import CONFIGS, load_config, parse
from twotower.pipelines.errors import ConfigError
from twotower.pipelines.verdict import recipes
from twotower.pipelines.verdict.recipes import Recipe, load_recipe, recipe_settings, variants
from twotower.pipelines.yaml_file import read_yaml

LEFT_TO_THE_CONFIGURATION = {
    # Their one epoch has no gradient steps.
    "closed": ("batch_size", "learning_rate", "learning_rate_decay", "optimizer", "patience"),
    # A larger data set has larger batches.
    "softmax": ("batch_size", "learning_rate"),
}
DATA_SETS = sorted(file.stem for file in CONFIGS.glob("*.yaml"))


def test_the_names_are_those_that_the_verdict_advises():
    known = """
        closed-form closed-form-sparse graph next-item softmax softmax-history softmax-wide
        transformer
    """
    assert recipes.names() == known.split()


@pytest.mark.parametrize("data_set", DATA_SETS)
@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_fits_every_data_set_and_keeps_its_data(data_set, name):
    settings, before = recipe_settings(name), load_config(data_set)
    after = load_config(data_set, settings)
    assert (after.training.start is not None) == name.startswith("closed-form")
    for section in ("ingest", "positives", "split", "evaluation", "serving"):
        assert getattr(after, section) == getattr(before, section)
    assert after.features.copy(update={"history": None}) == before.features.copy(
        update={"history": None}
    )


@pytest.mark.parametrize("before", recipes.names())
@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_sets_what_another_one_changes(before, name):
    """So that one can follow another, or a configuration with the settings of another."""

    def comparable(settings):
        tree = load_config("synthetic", settings).dict()
        for key in LEFT_TO_THE_CONFIGURATION.get(name.split("-")[0], ()):
            del tree["training"][key]
        return tree

    after = comparable((*recipe_settings(before), *recipe_settings(name)))
    assert after == comparable(recipe_settings(name))


def test_the_closed_form_leaves_nothing_behind_and_the_wide_recipe_differs_in_one_setting():
    first = load_config("synthetic", recipe_settings("softmax"))
    there_and_back = (*recipe_settings("closed-form"), *recipe_settings("softmax"))
    assert load_config("synthetic", there_and_back) == first
    wide = load_config("synthetic", recipe_settings("softmax-wide"))
    assert (first.model.dim, wide.model.dim) == (64, 128)
    assert first == wide.copy(update={"model": wide.model.copy(update={"dim": 64})})


def test_what_is_set_overrides_the_recipe():
    settings = (*recipe_settings("closed-form"), "training.start.l2=7", "model.dim=32")
    config = load_config("synthetic", settings)
    assert (config.training.start.l2, config.training.start.popularity_l2) == (7, 0.3)
    assert (config.model.dim, config.features.history) == (32, 1024)


def test_the_variants_are_the_recipes_with_the_values_of_what_they_choose():
    found = {each.label: each.settings for each in variants()}
    assert [*found] == [
        "closed-form, l2 30",
        "closed-form, l2 300",
        "closed-form, l2 3000",
        "closed-form-sparse",
        "graph, temperature 0.08",
        "graph, temperature 0.12, epochs 24, learning_rate_decay 0.9",
        "next-item, dropout 0.8, decay_floor 0.3",
        "next-item, dropout 0.5, decay_floor 0.0",
        "softmax",
        "softmax-history",
        "softmax-wide",
        "transformer, dropout 0.2",
        "transformer, dropout 0.6",
    ]
    configs = {label: load_config("synthetic", settings) for label, settings in found.items()}
    solved = [config.training.start.l2 for config in configs.values() if config.training.start]
    assert solved == [30, 300, 3000, 300]  # the sparse solution does not read the last
    assert configs["closed-form, l2 300"] == load_config(
        "synthetic", recipe_settings("closed-form")
    )


def test_mistakes_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"soft: no such config.* configs/recipes/: softmax, "):
        load_recipe("soft")
    (tmp_path / "bad.yaml").write_text("about: x\nsets: {model.dim: 3}\n")
    with pytest.raises(ConfigError, match="sets: no such key; did you mean set"):
        parse(Recipe, read_yaml(tmp_path / "bad.yaml"), "bad.yaml")
    done = CliRunner().invoke(main, ["run", "--recipe", "softmax", "--budget", "3"])
    assert done.exit_code == 2 and "--budget is for --recipe auto" in done.output
