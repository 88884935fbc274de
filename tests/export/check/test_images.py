"""The images of the check: generated ones, and the user's own."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from musiq.errors import MusiqError
from musiq_export.check import images
from tests.export.conftest import smaller_images
from tests.exporting import run
from tests.recipe import photo


def test_generated_images_are_the_same_for_everybody_and_differ_in_what_scores_see() -> None:
    one = images.generated(96, 128)
    np.testing.assert_array_equal(one, images.generated(96, 128))
    sharpness = [float(np.abs(np.diff(image.astype(np.float64), axis=1)).mean()) for image in one]
    assert max(sharpness) > 5 * min(sharpness)


def test_generated_images_of_many_sizes_come_in_turn_so_that_a_check_mixes_them() -> None:
    made = images.generated_sizes()
    sizes = [image.shape[:2] for image in made]
    assert sizes == [*images.SIZES * images.OF_EACH_SIZE, images.LARGEST]
    heights, widths = np.array(images.SIZES).T
    assert (heights < widths).any()
    assert (heights > widths).any()
    assert (heights == widths).any()
    assert ((heights < 32) & (widths < 32)).any()
    assert (np.maximum(heights, widths) > 20 * np.minimum(heights, widths)).any()
    assert ((heights % 2 == 1) & (widths % 2 == 1)).any()
    assert len({image.tobytes() for image in made}) == len(made)


def test_images_of_the_user_keep_their_sizes_up_to_a_bound_for_a_model_of_any_size(tmp_path: Path) -> None:
    for name, size in (("small", (20, 31)), ("thin", (16, 3000)), ("large", (1500, 2000))):
        cv2.imwrite(str(tmp_path / f"{name}.png"), photo(*size, 1))
    (tmp_path / "broken.png").write_bytes(b"no image")
    large, small, thin = images.read(tmp_path, None, None, 64)
    np.testing.assert_array_equal(small, photo(20, 31, 1)[..., ::-1])  # OpenCV writes BGR
    assert (small.shape[:2], thin.shape[:2], large.shape[:2]) == ((20, 31), (16, 3000), (768, 1024))
    shorter = images.read(tmp_path, None, None, 64, "longer=500")
    assert [image.shape[:2] for image in shorter] == [(375, 500), (20, 31), (3, 500)]
    assert {image.shape for image in images.read(tmp_path, 64, 96, 64)} == {(64, 96, 3)}
    for path in tmp_path.glob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(MusiqError, match=r"None of the images in .* could be read"):
        images.read(tmp_path, None, None, 64)


@pytest.mark.slow
def test_the_check_uses_the_users_own_images(small_checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    given = ("--checkpoint", small_checkpoint, "--images", photos, "--format", "torchscript", "--out", tmp_path)
    result = run(*given)
    assert result.exit_code == 0, result.output
    assert "on 40 images (photos" in result.output  # and not the broken one
    assert "[✓] SRCC 1.0000 ≥ 0.9999" in result.output


@pytest.mark.slow
def test_a_check_at_any_size_has_the_users_images_beside_the_generated_ones(
    small_checkpoint: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smaller_images(monkeypatch)
    given = ("--checkpoint", small_checkpoint, "--images", photos, "--max-images", 3, "--size", "any")
    result = run(*given, "--format", "torchscript", "--tune-for", "gpu", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "on 28 images (generated, photos" in result.output
