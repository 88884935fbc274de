"""Which groups of layers stay in fp32."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from musiq.errors import MusiqError
from musiq_export.int8.sensitivity import choose
from musiq_export.request import LIMITS
from tests.recipe import lively_model


def test_as_few_of_the_costliest_groups_are_kept_as_the_rest_needs() -> None:
    reference = np.linspace(0, 100, 24, dtype=np.float32)
    errors = {"good": 0.1, "bad": 8.0, "worse": 20.0, "fair": 1.0}
    sign = np.where(np.arange(24) % 2, 1, -1).astype(np.float32)
    spec = lively_model("tiny", score_range=(0.0, 100.0)).spec
    asked: list[tuple[str, ...]] = []

    def scores(groups: Any, count: int) -> Any:
        asked.append(tuple(groups))
        return (reference + sign * sum(errors[name] for name in groups))[:count]

    found = choose(errors, scores, reference, spec, LIMITS["int8"], lambda: None)
    assert found.kept_fp32 == ("worse", "bad")
    assert found.groups["bad"].max_difference == pytest.approx(8, abs=1e-4)
    assert found.together.max_difference == pytest.approx(1.1, abs=1e-4)
    together = [groups for groups in asked if len(groups) > 1]
    assert together == [("worse", "bad", "fair", "good"), ("fair", "good"), ("bad", "fair", "good")]
    with pytest.raises(MusiqError, match="Nothing of this model can be int8"):
        choose(errors, lambda groups, count: -reference[:count], reference, spec, LIMITS["int8"], lambda: None)


def test_the_same_groups_in_another_form_of_the_graph_are_not_measured_again() -> None:
    reference = np.linspace(0, 100, 24, dtype=np.float32)
    errors = {"good": 0.1, "bad": 20.0, "fair": 1.0}
    spec = lively_model("tiny", score_range=(0.0, 100.0)).spec
    asked: list[tuple[str, ...]] = []

    def scores(groups: Any, count: int) -> Any:
        asked.append(tuple(groups))
        return (reference + sum(errors[name] for name in groups))[:count]

    first = choose(errors, scores, reference, spec, LIMITS["int8"], lambda: None)
    asked.clear()
    again = choose(errors, scores, reference, spec, LIMITS["int8"], lambda: None, first)
    assert again == first
    assert asked == [("good", "fair")]
    asked.clear()
    errors["fair"] = 9.0  # what was chosen is no good there
    other = choose(errors, scores, reference, spec, LIMITS["int8"], lambda: None, first)
    assert other.kept_fp32 == ("bad", "fair")
    assert [groups for groups in asked if len(groups) == 1] == [("good",)]
