"""Fixtures every test may use."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest


def pytest_addoption(parser):
    parser.addoption(
        "--data",
        default=os.environ.get("TWOTOWER_DATA"),
        metavar="FOLDER",
        help="folder that holds ml-1m/, ml-100k/ and ali-ccp-sample/; "
        "without it the tests on real data are skipped",
    )


def pytest_configure(config):
    # A shell starts what runs in its background with Ctrl-C ignored, and children inherit that:
    # the tests that interrupt a child need it as a person's terminal has it.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = config.getoption("--data")
    if folder and not Path(folder).expanduser().is_dir():
        raise pytest.UsageError(f"--data {folder}: no such folder")


@pytest.fixture(scope="session")
def data_dir(request) -> Path:
    """The folder with the real data sets, or a skip that says how to set it."""
    folder = request.config.getoption("--data")
    if not folder:
        pytest.skip("needs real data: make test DATA=<folder with ml-1m/, ml-100k/, ...>")
    return Path(folder).expanduser().resolve()


# Ali-CCP's field numbers (Ma et al. 2018, https://tianchi.aliyun.com/dataset/408) and the names
# that Merlin's schema of the set gives them. 508, 509, 702 and 853 are combinations of a user's
# history with the item: category, shop, brand, intention.
ALI_CCP_COLUMNS = {
    "101": "user_id",
    "121": "user_profile",
    "122": "user_group",
    "124": "user_gender",
    "125": "user_age",
    "126": "user_consumption_1",
    "127": "user_consumption_2",
    "128": "user_is_occupied",
    "129": "user_geography",
    "109_14": "user_categories",
    "110_14": "user_shops",
    "127_14": "user_brands",
    "150_14": "user_intentions",
    "205": "item_id",
    "206": "item_category",
    "207": "item_shop",
    "210": "item_intention",
    "216": "item_brand",
    "508": "user_item_categories",
    "509": "user_item_shops",
    "702": "user_item_brands",
    "853": "user_item_intentions",
    "301": "position",
    "click": "click",
    "purchase": "conversion",
}


@pytest.fixture(scope="session")
def ali_ccp_parquet(data_dir, tmp_path_factory) -> Path:
    """A folder with train.parquet, valid.parquet and test.parquet: the sample, Merlin's names."""
    import pandas as pd

    folder = tmp_path_factory.mktemp("ali_ccp")
    for name, part in (("train", "train"), ("val", "valid"), ("test", "test")):
        rows = pd.read_csv(data_dir / "ali-ccp-sample" / f"ali_ccp_{name}_sample.csv")
        rows = rows[list(ALI_CCP_COLUMNS)].rename(columns=ALI_CCP_COLUMNS)
        rows.to_parquet(folder / f"{part}.parquet", index=False)
    return folder
