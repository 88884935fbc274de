"""JPEGs by NVIDIA's package: the pixels and the refusals of OpenCV, from as many threads as there are."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from musiq.errors import ImageError, MusiqError
from musiq.images.decode import decode, decoded
from musiq.images.nvimagecodec import NvImageCodec
from musiq.scoring.scorer import Scorer
from tests.score_samples import saved, scene

pytest.importorskip("nvidia.nvimgcodec", reason="needs NVIDIA's package: pip install '.[nvimagecodec]'")


def jpeg(seed: int, mode: str = "RGB", shape: tuple[int, int] = (75, 101), **options: object) -> bytes:
    return saved(Image.fromarray(scene(seed, *shape)).convert(mode), "jpeg", **options)


def pixels(data: bytes, codec: NvImageCodec) -> np.ndarray:
    with decoded(data, jpeg=codec) as (image, *_):
        return image


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 1, "quality": 40}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_on_a_cpu_pixels_are_those_of_opencv(mode: str, options: dict[str, object]) -> None:
    data = jpeg(1, mode, **options)
    tolerance = 1 if mode == "CMYK" else 0  # each of the two has its own conversion
    assert np.abs(pixels(data, NvImageCodec("cpu")).astype(int) - decode(data)).max() <= tolerance


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright_once(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = jpeg(2, exif=exif)
    np.testing.assert_array_equal(pixels(data, NvImageCodec("cpu")), decode(data))


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 0.999])
def test_a_file_cut_short_is_refused_as_ever(share: float) -> None:
    data = jpeg(3)
    codec = NvImageCodec("cpu")
    assert codec(data[: int(share * len(data))]) is None
    with pytest.raises(ImageError, match="cut short"):
        pixels(data[: int(share * len(data))], codec)


def test_what_the_package_cannot_read_is_left_to_opencv() -> None:
    codec = NvImageCodec("cpu")
    appended = jpeg(4) + b"a video, as phones append"
    assert codec(appended) is None
    np.testing.assert_array_equal(pixels(appended, codec), decode(appended))
    png = saved(scene(1), "png")
    np.testing.assert_array_equal(pixels(png, codec), decode(png))


def test_threads_get_their_own_decoders_and_the_same_pixels() -> None:
    codec, files = NvImageCodec("cpu"), [jpeg(seed) for seed in range(40)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(codec, files))
    for data, image in zip(files, found, strict=True):
        np.testing.assert_array_equal(image, decode(data))


def test_scores_are_those_with_opencv(tiny_onnx: Path, tmp_path: Path) -> None:
    files = [tmp_path / f"{seed}.jpg" for seed in range(5)]
    for seed, file in enumerate(files):
        file.write_bytes(jpeg(seed, shape=(300, 400)))
    with Scorer(tiny_onnx, "cpu") as ours, Scorer(tiny_onnx, "cpu", jpeg_decoder="nvimagecodec") as theirs:
        assert list(theirs.score_many(files)) == list(ours.score_many(files))


def test_it_is_refused_where_it_cannot_be(tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MusiqError, match="leave out reduced_jpeg or jpeg_decoder"):
        Scorer(tiny_onnx, "cpu", jpeg_decoder="nvimagecodec", reduced_jpeg=True)
    with pytest.raises(MusiqError, match="There is no JPEG decoder 'magick'; there are opencv and nvimagecodec"):
        Scorer(tiny_onnx, "cpu", jpeg_decoder="magick")
    monkeypatch.setattr("musiq.hardware.why_no_driver", lambda: "there is no NVIDIA driver here")
    with pytest.raises(MusiqError, match="cannot use cuda:0: there is no NVIDIA driver here"):
        NvImageCodec("cuda:0")
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", None)
    with pytest.raises(MusiqError, match=r"pip install .*\[nvimagecodec\]'"):
        NvImageCodec("cpu")


@pytest.mark.gpu
def test_on_a_gpu_pixels_are_opencvs_but_for_rounding() -> None:
    data = jpeg(5, shape=(768, 1024))
    difference = np.abs(pixels(data, NvImageCodec("cuda:0")).astype(int) - decode(data))
    assert difference.max() <= 4
    assert difference.mean() < 0.5
