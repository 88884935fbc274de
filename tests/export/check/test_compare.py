"""What passes the check of an artifact's scores, and what does not."""

from __future__ import annotations

import numpy as np

from musiq.metrics import srcc
from musiq_export.check.compare import compare, lines
from musiq_export.request import LIMITS, Limits
from tests.recipe import lively_model


def test_a_check_fails_for_nan_for_large_differences_and_for_lost_ranks() -> None:
    spec, limits = lively_model("tiny", score_range=(0.0, 100.0)).spec, Limits(difference=1.0, srcc=0.99)
    reference = np.linspace(10, 90, 60, dtype=np.float32)

    def passes(found: np.ndarray) -> bool:
        return compare(found.astype(np.float32), reference, spec, limits, "test", "made up").passed

    assert passes(reference + 0.9)
    assert not passes(reference + 1.1)
    assert not passes(np.where(np.arange(60) == 3, np.nan, reference))
    near = np.float32(50) + np.linspace(0, 0.5, 60, dtype=np.float32)
    shuffled = np.random.default_rng(0).permutation(near)
    assert srcc(shuffled, near) < 0.9
    assert not compare(shuffled, near, spec, limits, "test", "made up").passed


def test_few_images_judge_ranks_only_where_exact_agreement_is_asked_for() -> None:
    spec = lively_model("tiny", score_range=(0.0, 100.0)).spec
    reference = np.arange(16, dtype=np.float32) / 100
    swapped = reference.copy()
    swapped[[3, 4]] = swapped[[4, 3]]
    for precision, passes in (("fp16", True), ("fp32", False)):
        limits = Limits(difference=1.0, srcc=LIMITS[precision].srcc)
        assert compare(swapped, reference, spec, limits, "test", "made up").passed is passes


def test_a_share_says_what_it_is_a_share_of() -> None:
    reference = np.linspace(1, 3, 16, dtype=np.float32)
    for score_range, whole in (((0.0, 100.0), "(0.0100% of the score range)"), (None, "(0.5000% of the spread of the")):
        spec, limits = lively_model("tiny", score_range=score_range).spec, LIMITS["fp16"]
        check = compare(reference + np.float32(0.01), reference, spec, limits, "test", "made up")
        assert whole in next(lines(check, spec, limits, reference))
