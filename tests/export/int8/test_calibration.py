"""The images that int8 is calibrated on."""

from __future__ import annotations

from pathlib import Path

import pytest

from musiq.errors import MusiqError
from musiq_export.int8 import calibration


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
