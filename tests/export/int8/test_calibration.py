"""The images that int8 is calibrated on."""

from __future__ import annotations

from pathlib import Path

import pytest

from musiq.errors import MusiqError
from musiq_export.int8 import calibration
from musiq_export.request import BatchRange, Request
from tests.recipe import lively_model, photo


def test_fewer_than_16_images_are_refused_and_fewer_than_64_warned_of(photos: Path, tmp_path: Path) -> None:
    for file in sorted(photos.glob("*.png"))[:15]:
        (tmp_path / file.name).symlink_to(file)
    with pytest.raises(MusiqError, match="15 readable images; int8 needs at least 16"):
        calibration.read(tmp_path, 64, 96, warn=print)
    (tmp_path / "39.png").symlink_to(photos / "39.png")
    said: list[str] = []
    assert len(calibration.read(tmp_path, 64, 96, said.append).names) == 16
    assert len(said) == 1
    assert "16 readable images: int8 is calibrated better on 64 to 512" in said[0]


def test_a_model_of_any_size_is_calibrated_on_images_of_their_own_sizes(photos: Path) -> None:
    read = calibration.read(photos, None, None, warn=lambda text: None)
    assert len(read.images) == 40
    assert {image.shape for image in read.images} == {(200, 300, 3)}
    assert {image.shape[:2] for image in calibration.read(photos, None, None, print, "longer=90").images} == {(60, 90)}


def test_a_call_has_images_of_one_size_and_none_is_lost() -> None:
    model = lively_model("tiny", height=None, width=None, layers=1)
    sizes = [(64, 96)] * 5 + [(20, 25), (64, 96), (20, 25), (20, 25)]
    images = [photo(*size, seed) for seed, size in enumerate(sizes)]
    for batch, lengths in ((BatchRange(), [1] * 9), (BatchRange(3, 3, 3), [3, 2, 1, 1, 2])):
        calls = list(calibration.in_batches(Request(model, batch=batch), images))
        assert [len(call) for call in calls] == lengths
        assert all(len({image.shape for image in call}) == 1 for call in calls)
        assert all(one is other for one, other in zip((each for call in calls for each in call), images, strict=True))
