"""Images are made to fit by covering and cropping, and found in folders."""

from __future__ import annotations

import io
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from musiq.errors import ImageError, MusiqError
from musiq.images import decode as image_module
from musiq.images.decode import decode, decoded, prepare
from musiq.images.find import find_images
from musiq.images.fit import fit
from tests.recipe import photo
from tests.score_samples import saved, scene

RGB = scene(1, 40, 60)


def test_fit_leaves_an_image_that_fits_alone() -> None:
    same, said = fit(RGB, 40, 60)
    assert said == ""
    assert same is RGB


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((80, 120), "resized 0.5x"),
        ((20, 30), "resized 2x"),
        ((40, 80), "cropped 80x40 to 60x40"),
        ((160, 120), "resized 0.5x; cropped 60x80 to 60x40"),
        ((100, 100), "resized 0.6x; cropped 60x60 to 60x40"),
        ((1, 1), "resized 60x; cropped 60x60 to 60x40"),
    ],
)
def test_fit_covers_and_crops_and_says_so(shape: tuple[int, int], said: str) -> None:
    got, how = fit(scene(2, *shape), 40, 60)
    assert got.shape == (40, 60, 3)
    assert got.flags.c_contiguous
    assert how == said


def test_fit_keeps_the_middle() -> None:
    wide = np.zeros((40, 100, 3), np.uint8)
    wide[:, 20:80] = RGB
    np.testing.assert_array_equal(fit(wide, 40, 60)[0], RGB)
    tall = np.zeros((80, 60, 3), np.uint8)
    tall[20:60] = RGB
    np.testing.assert_array_equal(fit(tall, 40, 60)[0], RGB)


def test_fit_shrinks_by_averaging_areas() -> None:
    large = scene(4, 80, 120)
    means = large.reshape(40, 2, 60, 2, 3).mean(axis=(1, 3))
    assert np.abs(fit(large, 40, 60)[0] - means).max() <= 0.5


def test_fit_always_covers_whatever_the_aspect() -> None:
    for rows, columns in np.random.default_rng(0).integers(1, 400, (300, 2)):
        got, _ = fit(np.zeros((rows, columns, 3), np.uint8), 37, 53)
        assert got.shape == (37, 53, 3)


def test_prepare_is_decode_then_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved(scene(5, 90, 200), "png")
    want = fit(decode(data), 40, 60)
    for large in (1, 10**9):  # with and without taking turns
        monkeypatch.setattr(image_module, "LARGE", large)
        got = prepare(data, 40, 60)
        np.testing.assert_array_equal(got[0], want[0])
        assert got[1] == want[1]


def test_folders_are_searched_in_order_without_hidden_files_and_loops(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.PNG", "sub/c.webp", "sub/notes.txt", ".hidden/d.jpg", ".e.jpg", "x.jpg/inner.gif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "gone.jpg")
    found = [str(path.relative_to(tmp_path)) for path in find_images([tmp_path])]
    assert found == ["a.PNG", "b.jpg", "broken.jpg", "sub/c.webp", "x.jpg/inner.gif"]


def test_files_are_taken_as_given_and_missing_ones_are_left_to_the_reader(tmp_path: Path) -> None:
    odd = tmp_path / "image.without-suffix"
    odd.write_bytes(b"")
    assert find_images([odd, tmp_path / "missing.jpg"]) == [odd, tmp_path / "missing.jpg"]


def test_a_folder_without_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MusiqError, match=r"no image in .*expected files named .*\.jpg"):
        find_images([tmp_path])


def test_a_very_deep_folder_is_searched(tmp_path: Path) -> None:
    before = os.getcwd()
    try:
        os.chdir(tmp_path)
        for _ in range(1100):  # deeper than Python recurses
            os.mkdir("d")
            os.chdir("d")
        Path("deep.jpg").write_bytes(b"")
    finally:
        os.chdir(before)
    try:
        assert [path.name for path in find_images([tmp_path])] == ["deep.jpg"]
    finally:  # deeper than pytest's own cleaning reaches
        subprocess.run(["rm", "-rf", str(tmp_path / "d")], check=True)


def jpeg(height: int, width: int, orientation: int = 1) -> bytes:
    """A photograph-like JPEG: large shapes and some grain."""
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Pillow.fromarray(photo(height, width, 3)).save(file, "JPEG", quality=92, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize(
    ("shape", "times"),
    [((39, 59), 1), ((79, 200), 1), ((80, 120), 2), ((159, 400), 2), ((160, 240), 4), ((320, 480), 8), ((999, 999), 8)],
)
def test_a_reduced_jpeg_is_decoded_at_the_smallest_part_that_covers(shape: tuple[int, int], times: int) -> None:
    with decoded(jpeg(*shape), cover=(40, 60)) as (image, reduction):
        assert reduction == times
        assert image.shape == (-(-shape[0] // times), -(-shape[1] // times), 3)
    png = saved(scene(1, *shape), "png")
    with decoded(png, cover=(40, 60)) as (image, reduction):
        assert (reduction, image.shape[:2]) == (1, shape)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_reduced_jpeg_is_the_average_of_the_whole_one_and_upright(orientation: int) -> None:
    data = jpeg(320, 640, orientation)
    whole, _ = fit(decode(data), 40, 40)
    with decoded(data, cover=(40, 40)) as (image, reduction):
        reduced, said = fit(image, 40, 40, reduction)
    assert said.startswith("decoded at 1/8")
    assert np.abs(reduced.astype(int) - whole).mean() < 1.5


def test_a_reduced_jpeg_that_is_cut_short_is_refused_like_a_whole_one() -> None:
    data = jpeg(320, 480)
    with pytest.raises(ImageError, match="cut short or corrupt"), decoded(data[: len(data) // 2], cover=(40, 60)):
        pass
