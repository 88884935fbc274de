"""HEIC through pi-heif: orientation, 10 bits, alpha and grey; files that pillow-heif, which has the encoder, writes."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from musiq.errors import ImageError
from musiq.images.decode import decode
from tests.musiq.images.over import largest_difference, over
from tests.score_samples import exif, save_mean_model, saved, scene

pillow_heif = pytest.importorskip("pillow_heif", reason="writes the files: pip install pillow-heif")
pytest.importorskip("pi_heif", reason="needs the extra: pip install '.[heif]'")

RGB = scene(1, 64, 96)


def heic(image: Image.Image, **options: object) -> bytes:
    pillow_heif.register_heif_opener()
    buffer = io.BytesIO()
    image.save(buffer, "HEIF", quality=-1, chroma=444, **options)  # -1: as lossless as HEVC's colours are
    return buffer.getvalue()


def test_a_photo_is_read() -> None:
    assert largest_difference(decode(heic(Image.fromarray(RGB))), RGB) <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_upright_once(orientation: int) -> None:
    wanted = np.asarray(Image.fromarray(RGB).transpose(TURNS[orientation])) if orientation > 1 else RGB
    found = decode(heic(Image.fromarray(RGB), exif=exif(orientation)))
    assert found.shape == wanted.shape
    assert largest_difference(found, wanted) <= 2


TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def test_ten_bits_are_scaled_to_eight() -> None:
    deep = np.rint(RGB / 255 * 65535).astype(np.uint16)
    image = pillow_heif.from_bytes("RGB;16", (96, 64), deep.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, quality=-1, chroma=444)
    assert largest_difference(decode(buffer.getvalue()), RGB) <= 2


@pytest.mark.parametrize("background", [0, 255])
def test_alpha_is_laid_over_the_background(background: int) -> None:
    image = np.dstack([RGB, scene(2, 64, 96)[..., 0]])
    found = decode(heic(Image.fromarray(image)), background="white" if background else "black")
    assert largest_difference(found, over(image, background)) <= 3


def test_grey_becomes_three_equal_channels() -> None:
    found = decode(heic(Image.fromarray(RGB[..., 0])))
    assert largest_difference(found, RGB[..., [0, 0, 0]]) <= 2
    assert (found[..., :1] == found).all()


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
def test_a_file_cut_short_is_refused(kept: float) -> None:
    data = heic(Image.fromarray(RGB))
    with pytest.raises(ImageError, match="cut short"):
        decode(data[: int(kept * len(data))])


def test_the_pixel_limit_holds_before_anything_is_decoded() -> None:
    with pytest.raises(ImageError, match="at most 1,000"):
        decode(heic(Image.fromarray(RGB)), max_pixels=1000)


def test_without_the_package_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    data = heic(Image.fromarray(RGB))
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    with pytest.raises(ImageError, match=r"pip install .*\[heif\]'") as caught:
        decode(data)
    assert "\n" not in str(caught.value)


def crashing() -> bytes:
    """A file that pi-heif does not survive: the kind of its second item, EXIF, is damaged in one byte."""
    data = heic(Image.fromarray(RGB), exif=exif(1))
    script = "import io, pi_heif, sys; pi_heif.open_heif(io.BytesIO(sys.stdin.buffer.read()))"
    kind = data.index(b"Exif")
    for at in range(kind, kind + 4):
        damaged = data[:at] + b"\xf7" + data[at + 1 :]
        if subprocess.run([sys.executable, "-c", script], input=damaged, capture_output=True).returncode not in (0, 1):
            return damaged
    pytest.skip("this pi-heif reads or refuses what crashed others")


def test_a_crash_of_the_decoder_costs_its_image_alone(tmp_path: Path) -> None:
    """The list of images is read on stdin, which the decoder's process must leave alone."""
    files = {
        "a.png": saved(RGB, "png"),
        "b.heic": crashing(),
        "c.heic": heic(Image.fromarray(RGB)),
        "d.png": saved(RGB, "png"),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    model, out = save_mean_model(tmp_path / "mean.onnx"), tmp_path / "scores.csv"
    command = [sys.executable, "-m", "musiq.cli", "-", "--model", str(model), "--out", str(out)]
    listed = "".join(f"{tmp_path / name}\n" for name in files)
    found = subprocess.run(command, input=listed, capture_output=True, text=True, check=False)
    assert found.returncode == 3, found.stderr
    errors = {Path(row["path"]).name: row["error"] for row in csv.DictReader(out.open(newline=""))}
    assert "its decoder crashed" in errors.pop("b.heic")
    assert errors == {"a.png": "", "c.heic": "", "d.png": ""}


def test_the_pixels_can_be_written_to() -> None:
    assert decode(heic(Image.fromarray(RGB))).flags.writeable


def test_a_decoder_that_does_not_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("musiq.images.heif.SECONDS", 0.001)
    with pytest.raises(ImageError, match="did not end"):
        decode(heic(Image.fromarray(RGB)))
