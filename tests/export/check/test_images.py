"""The images of the check: generated ones, and the user's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from musiq_export.check import images
from tests.exporting import run


def test_generated_images_are_the_same_for_everybody_and_differ_in_what_scores_see() -> None:
    one = images.generated(96, 128)
    np.testing.assert_array_equal(one, images.generated(96, 128))
    sharpness = [float(np.abs(np.diff(image.astype(np.float64), axis=1)).mean()) for image in one]
    assert max(sharpness) > 5 * min(sharpness)


def test_the_check_uses_the_users_own_images(small_checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    given = ("--checkpoint", small_checkpoint, "--images", photos, "--format", "pt2", "--out", tmp_path)
    result = run(*given)
    assert result.exit_code == 0, result.output
    assert "on 40 images (photos" in result.output  # and not the broken one
    assert "[✓] SRCC 1.0000 ≥ 0.9999" in result.output
