"""The written configuration is valid, has the settings of the guess, and asks what is not clear."""

from __future__ import annotations

import pandas as pd
import pytest
import yaml

from tests.pipelines.init import shops
from tests.pipelines.init.conftest import facts
from twotower.pipelines.config import load_config, parse_config
from twotower.pipelines.init.guess import Named, guess
from twotower.pipelines.init.settings import settings
from twotower.pipelines.init.write import as_yaml, flow

FILES = {"interactions": "orders.csv"}


def guessed(frame, named=None):
    return guess(facts(frame), {}, named or Named())


@pytest.mark.parametrize("shop", shops.ALL)
def test_it_loads_and_has_the_settings_of_the_guess(tmp_path, shop):
    found = guessed(shops.ALL[shop]())
    path = tmp_path / "twotower.yaml"
    path.write_text(as_yaml(found, FILES, "shop"))
    tree = settings(found, FILES, "shop")
    assert yaml.safe_load(path.read_text()) == tree
    assert load_config(path) == parse_config(tree, "settings")
    assert len(path.read_text().splitlines()) < 45


def test_questions_are_above_their_default():
    lines = as_yaml(guessed(shops.events()), FILES, "shop").splitlines()
    (question,) = [row for row, line in enumerate(lines) if "QUESTION: which events" in line]
    assert lines[question + 1].startswith("positives: {column: event, values: [view, addtocart]}")
    assert any("QUESTION marks" in line for line in lines[:question])


def test_without_a_question_none_is_announced():
    assert "QUESTION" not in as_yaml(guessed(shops.chinese()), FILES, "shop")


def test_what_is_left_out_and_assumed_is_said():
    text = as_yaml(guessed(shops.personal()), FILES, "shop")
    assert "#   phone: personal data (phone numbers)" in text
    assert "show: [product_name]" in text and "# QUESTION: is channel known" in text
    assert "# QUESTION: should the run store e-mail addresses (customer_email) as ids?" in text
    assert "# All rows are positives: no column says how much" in text


@pytest.mark.parametrize(
    ("shop", "proposal"),
    [
        ("german", "# positives: {weight: Menge, weight_transform: log1p}"),
        ("german", "  # context: [Zahlungsart]"),
        ("reviews", "  # context_numeric: [helpful_vote]"),
        ("retail", "  # time: [hour_of_day, day_of_week]"),
    ],
)
def test_a_proposal_is_valid_without_its_mark(tmp_path, shop, proposal):
    path = tmp_path / "twotower.yaml"
    text = as_yaml(guessed(shops.ALL[shop]()), FILES, "shop")
    assert f"{proposal}\n" in text
    path.write_text(text.replace(proposal, proposal.replace("# ", "")))
    assert load_config(path) != parse_config(yaml.safe_load(text), "settings")


def test_hours_are_not_proposed_for_days():
    days = shops.retail().assign(InvoiceDate=shops.TIMES.strftime("%Y-%m-%d"))
    assert "  # time: [day_of_week]\n" in as_yaml(guessed(days), FILES, "shop")


def test_an_unclear_number_has_both_lines_to_choose_from():
    frame = pd.DataFrame({"user": shops.USER, "item": shops.ITEM, "v": shops.STARS})
    text = as_yaml(guessed(frame), FILES, "shop")
    assert "# positives: {column: v, at_least: 4}" in text
    assert "# positives: {weight: v, weight_transform: log1p}" in text
    assert "positives" not in yaml.safe_load(text)


def test_names_of_columns_cannot_break_the_file():
    odd = {"a: b": "user", "#x": "item", "l1\nl2": "channel", "y [z]": "brand"}
    frame = pd.DataFrame(
        {
            "a: b": shops.USER,
            "#x": shops.ITEM,
            "l1\nl2": shops.STARS,
            "y [z]": shops.GROUP,
            "null": shops.GROUP,
        }
    )
    assert set(odd) < set(frame)
    found = guessed(frame, Named(user="a: b", item="#x"))
    tree = yaml.safe_load(as_yaml(found, FILES, "shop"))
    assert tree["ingest"]["files"]["columns"] == {"user_id": "a: b", "item_id": "#x"}
    assert tree["features"]["item"] == ["y [z]", "null"]


@pytest.mark.parametrize("value", ["yes", "a: b", "01", "%d.%m", ["x", 1.5], {"a": [1]}, "日"])
def test_flow_is_one_line_that_reads_back(value):
    text = flow(value)
    assert "\n" not in text
    assert yaml.safe_load(text) == value
