"""The precision inside an artifact is counted."""

from __future__ import annotations

import pytest

from musiq.errors import MusiqError
from musiq_export.check import weight_types


def test_an_artifact_of_another_precision_inside_does_not_pass() -> None:
    elements = weight_types.count([("float32", [10, 10]), ("float16", [3]), ("int64", [1000])])
    assert elements == {"float32": 100, "float16": 3}
    with pytest.raises(MusiqError, match="was to be fp16, but of 103 weights only 3 are"):
        weight_types.check(elements, "fp16")
