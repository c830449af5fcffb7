"""What is written is JSON for every reader, and comes back as it was."""

import json
import math

import pytest

from convnext.files import read_record, to_json


def test_json_has_no_nan():
    text = to_json({"a": math.nan, "b": [1.5, math.inf], "c": {"d": -math.inf}, "e": "NaN", "f": (1, None)})

    def refuse(constant):
        raise AssertionError(constant)

    found = json.loads(text, parse_constant=refuse)
    assert found == {"a": None, "b": [1.5, None], "c": {"d": None}, "e": "NaN", "f": [1, None]}


def test_a_record_comes_back():
    record = read_record(to_json({"step": 3, "loss": 0.1, "ap_small": math.nan}))
    assert record == {"step": 3, "loss": 0.1, "ap_small": pytest.approx(math.nan, nan_ok=True)}
    with pytest.raises(ValueError, match="Expecting"):
        read_record('{"step": 3, ')
