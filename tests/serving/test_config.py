"""Bad settings are errors that name the key."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from twotower.serving.config import ServingConfig


def test_defaults_are_safe():
    config = ServingConfig()
    assert (config.runtime, config.default_k, config.host) == ("compiled", 10, "127.0.0.1")


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"runtime": "tensorrt"}, "runtime"),
        ({"topk": 5}, "topk"),
        ({"default_k": 0}, "default_k"),
        ({"default_k": 11, "max_k": 10}, "default_k = 11 is above max_k = 10"),
        ({"http_port": 70000}, "http_port"),
        ({"keep_versions": 1}, "keep_versions"),
        ({"queue_delay_us": -1}, "queue_delay_us"),
        (
            {"preferred_batch_sizes": [8, 300], "max_batch_size": 256},
            "preferred_batch_sizes has 300; expected 1 to max_batch_size = 256",
        ),
        ({"preferred_batch_sizes": [0]}, "preferred_batch_sizes -> 0"),
    ],
)
def test_a_bad_setting_is_named(settings, message):
    with pytest.raises(ValidationError, match=message):
        ServingConfig(**settings)


def test_every_field_is_documented():
    assert all(field.field_info.description for field in ServingConfig.__fields__.values())
