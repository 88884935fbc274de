"""Thumbnails: small, upright, of the whole image, and never a reason for a score less."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from musiq.scoring import Row, Scorer
from musiq.scoring.thumbnails import thumbnail, thumbnail_of
from tests.score_samples import exif, save_mean_model, saved, scene


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    assert image.format == "WEBP"
    return image


@pytest.mark.parametrize(
    ("size", "expected"),
    [((768, 1024), (192, 144)), ((40, 30), (30, 40)), ((1, 9000), (192, 1)), ((192, 100), (100, 192))],
)
def test_the_longer_side_has_192_pixels_and_small_images_stay_as_they_are(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert opened(thumbnail(scene(1, *size))).size == expected


def test_it_shows_the_image_as_pillow_shrinks_it() -> None:
    image = scene(3, 600, 800)
    small = np.asarray(opened(thumbnail(image)).convert("RGB"), float)
    other = np.asarray(Image.fromarray(image).resize((192, 144), Image.Resampling.BOX), float)
    assert np.abs(small - other).mean() < 8


def test_of_an_image_that_lies_on_its_side_it_is_upright_whether_scored_or_not(tmp_path: Path) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(saved(scene(4, 900, 1200), "jpeg", exif=exif(6)))
    with Scorer(save_mean_model(tmp_path / "mean.onnx")) as scorer:
        (row,) = scorer.score_many([photo], thumbnails=True)
        (without,) = scorer.score_many([photo])
    assert opened(row.thumbnail).size == opened(thumbnail_of(Row(str(photo), None))).size == (144, 192)
    assert without.thumbnail == b""
    assert without == row


def test_of_what_cannot_be_read_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"GIF89a")
    names = [str(tmp_path / "bad.jpg"), "nowhere.png", "nowhere.mp4"]
    assert [thumbnail_of(Row(name, None)) for name in names] == [b""] * 3
    assert thumbnail_of(Row(names[0], 1.0, frames=8)) == b""


def test_of_a_frame_it_shows_that_frame_and_of_a_video_the_middle_one(tmp_path: Path) -> None:
    clip = tmp_path / "clip.gif"
    greys = [Image.new("RGB", (64, 48), (level, level, level)) for level in (0, 100, 200)]
    greys[0].save(clip, save_all=True, append_images=greys[1:], duration=100)

    def grey(row: Row) -> int:
        return round(float(np.asarray(opened(thumbnail_of(row)).convert("L")).mean()))

    assert [grey(Row(str(clip), 1.0, frame=number)) for number in range(3)] == pytest.approx([0, 100, 200], abs=3)
    assert grey(Row(str(clip), 1.0, frames=3)) == pytest.approx(100, abs=3)
