"""`decode` against Pillow, and `prepare`, which also makes the image fit."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from musiq.errors import ImageError, MusiqError
from musiq.images import decode, fit, prepare
from musiq.images.decode import decoded
from tests.recipe import photo
from tests.score_samples import exif, saved, scene

RGB = scene(1, 40, 60)
ALPHA = np.asarray(cv2.resize(np.array([[0, 255], [90, 200]], np.uint8), (60, 40)), np.uint8)
RGBA = np.dstack([RGB, ALPHA])
LOSSLESS = {"lossless": True}


def by_pillow(data: bytes, background: int = 255) -> NDArray[np.uint8]:
    """The first frame, upright, over a grey of that value."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    image = image.convert("RGBA") if image.mode != "CMYK" else image.convert("RGB").convert("RGBA")
    under = Image.new("RGBA", image.size, (background, background, background, 255))
    return np.asarray(Image.alpha_composite(under, image).convert("RGB"))


def assert_same(data: bytes, tolerance: int = 0, **options: object) -> None:
    want = by_pillow(data, 0 if options.get("background") == "black" else 255)
    got = decode(data, **options)  # type: ignore[arg-type]
    assert got.dtype == np.uint8
    assert got.flags.c_contiguous
    assert got.shape == want.shape
    assert np.abs(got.astype(int) - want).max() <= tolerance


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("jpeg", {}),
        ("jpeg", {"progressive": True}),
        ("png", {}),
        ("webp", {}),
        ("webp", LOSSLESS),
        ("bmp", {}),
        ("gif", {}),
        ("tiff", {}),
        ("tiff", {"compression": "tiff_lzw"}),
        ("tiff", {"compression": "tiff_adobe_deflate"}),
        ("tiff", {"compression": "packbits"}),
        ("tiff", {"compression": "jpeg"}),
        ("avif", {}),
    ],
)
def test_every_format_gives_the_pixels_that_pillow_reads(kind: str, options: dict[str, object]) -> None:
    assert_same(saved(RGB, kind, **options), tolerance=1)


@pytest.mark.parametrize("kind", ["jpeg", "png", "bmp", "gif", "tiff", "avif"])  # WebP stores no grey
def test_grey_becomes_three_equal_channels(kind: str) -> None:
    data = saved(Image.fromarray(RGB).convert("L"), kind)
    assert_same(data)
    got = decode(data)
    assert (got[..., 0] == got[..., 1]).all()


@pytest.mark.parametrize("kind", ["png", "bmp", "gif", "tiff"])
def test_palettes_and_single_bits_are_read(kind: str) -> None:
    assert_same(saved(Image.fromarray(RGB).quantize(30), kind))
    assert_same(saved(Image.fromarray(RGB).convert("1"), kind))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("kind", "options"), [("jpeg", {}), ("png", {}), ("webp", LOSSLESS), ("tiff", {}), ("avif", {"quality": 95})]
)
def test_every_orientation_is_turned_upright(kind: str, options: dict[str, object], orientation: int) -> None:
    data = saved(RGB, kind, exif=exif(orientation), **options)
    assert decode(data).shape == ((60, 40, 3) if orientation > 4 else (40, 60, 3))
    assert_same(data)


@pytest.mark.parametrize("background", ["white", "black"])
@pytest.mark.parametrize(
    ("kind", "options"), [("png", {}), ("webp", LOSSLESS), ("tiff", {}), ("avif", {}), ("gif", {})]
)
def test_alpha_is_laid_over_the_background(kind: str, options: dict[str, object], background: str) -> None:
    assert_same(saved(RGBA, kind, **options), tolerance=1, background=background)


def test_transparent_palettes_and_grey_with_alpha_are_laid_over_white() -> None:
    assert_same(saved(Image.fromarray(RGBA).quantize(40), "png"), tolerance=1)
    assert_same(saved(Image.fromarray(RGBA).convert("LA"), "png"), tolerance=1)


@pytest.mark.parametrize("ending", [".png", ".tiff"])
@pytest.mark.parametrize("image", [RGB, RGB[..., 0], RGBA], ids=["colour", "grey", "alpha"])
def test_sixteen_bits_are_scaled_and_not_clipped(ending: str, image: NDArray[np.uint8]) -> None:
    deep = cv2.imencode(ending, image.astype(np.uint16) * 257)[1].tobytes()
    shallow = cv2.imencode(".png", image)[1].tobytes()
    assert np.abs(decode(deep).astype(int) - decode(shallow)).max() == 0


@pytest.mark.parametrize("bits", [10, 12])
def test_avif_of_more_than_eight_bits_is_scaled(bits: int) -> None:
    deep = np.full((32, 32, 3), (2**bits - 1) // 2, np.uint16)
    data = cv2.imencode(".avif", deep, [cv2.IMWRITE_AVIF_DEPTH, bits, cv2.IMWRITE_AVIF_QUALITY, 95])[1].tobytes()
    assert abs(decode(data).astype(int) - 127).max() <= 1


def test_cmyk_is_converted() -> None:
    assert_same(saved(Image.fromarray(RGB).convert("CMYK"), "jpeg"), tolerance=2)
    assert_same(saved(Image.fromarray(RGB).convert("CMYK"), "tiff"), tolerance=2)


@pytest.mark.parametrize("kind", ["gif", "webp", "png", "avif", "tiff"])
def test_of_an_animation_the_first_frame_counts(kind: str) -> None:
    frames = [Image.fromarray(scene(seed, 40, 60)) for seed in (1, 2, 3)]
    options = LOSSLESS if kind == "webp" else {}
    assert_same(saved(frames[0], kind, save_all=True, append_images=frames[1:], **options), tolerance=1)


def test_paths_bytes_file_objects_urls_and_arrays_give_the_same(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(saved(RGB, "png"))
    with path.open("rb") as file:
        from_file = decode(file)
    pytest.importorskip("fsspec", reason="needs the extra: pip install '.[url]'")
    for got in (
        decode(path),
        decode(str(path)),
        decode(path.read_bytes()),
        from_file,
        decode(RGB),
        decode(path.as_uri()),
    ):
        np.testing.assert_array_equal(got, RGB)


def test_arrays_may_be_grey_deep_transparent_or_not_contiguous() -> None:
    np.testing.assert_array_equal(decode(RGB[..., 0]), np.repeat(RGB[..., :1], 3, axis=2))
    np.testing.assert_array_equal(decode(RGB[..., :1]), decode(RGB[..., 0]))
    np.testing.assert_array_equal(decode(RGB.astype(np.uint16) * 257), RGB)
    np.testing.assert_array_equal(decode(RGB[:, ::-1]), RGB[:, ::-1])
    share = ALPHA[..., None] / 255
    assert np.abs(decode(RGBA) - (RGB * share + 255 * (1 - share))).max() <= 0.5 + 1e-9
    assert np.abs(decode(RGBA, background="black") - RGB * share).max() <= 0.5 + 1e-9


@pytest.mark.parametrize(
    "array", [RGB.astype(np.float32), RGB[:0], RGB[..., :2], RGB[None], np.zeros(3, np.uint8), RGB.astype(bool)]
)
def test_other_arrays_are_refused_with_what_was_expected(array: NDArray[np.uint8]) -> None:
    with pytest.raises(ImageError, match=r"expected uint8 or uint16, \(H, W\) grey"):
        decode(array)


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "bmp", "gif", "tiff", "avif"])
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.6, 0.9])
def test_a_file_cut_short_is_an_error_and_never_half_an_image(kind: str, kept: float) -> None:
    data = saved(scene(3, 120, 160), kind)
    with pytest.raises(ImageError, match="cut short") as caught:
        decode(data[: max(12, int(len(data) * kept))])
    assert "\n" not in str(caught.value)


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    cases = {
        b"": "The file is empty",
        b"hello, I am an image": "it looks like text",
        b"<!DOCTYPE html><html>404</html>": "HTML or XML",
        b"%PDF-1.7 ...": "a PDF",
        b"8BPS\0\1": "a Photoshop document",
        b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG 2000",
        b"\0\0\0\x18ftypcrx ": "a camera raw file",
        b"\0\0\0\x18ftypmp42": "a video",
        b"\x00\x01\x02\x03\x04": "it starts with 00 01 02 03",
    }
    path = tmp_path / "image.jpg"
    for data, words in cases.items():
        path.write_bytes(data)
        with pytest.raises(ImageError, match=words):
            decode(path)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    for name, words in {
        "missing.jpg": "no such file",
        "loop.jpg": "Cannot read",
        "pipe.jpg": "no regular file",
    }.items():
        with pytest.raises(ImageError, match=words):
            decode(tmp_path / name)
    with pytest.raises(ImageError, match="folder"):
        decode(tmp_path)
    with pytest.raises(ImageError, match="null"):
        decode("a\0b.jpg")
    with pytest.raises(ImageError, match="name of the image is empty"):
        decode("")
    with pytest.raises(ImageError, match="gives str, not bytes"):
        decode(io.StringIO("x"))  # type: ignore[arg-type]
    with pytest.raises(MusiqError, match="max_pixels is None; expected a whole number"):
        decode(saved(RGB, "png"), max_pixels=None)  # type: ignore[arg-type]
    with pytest.raises(ImageError, match="int; give a path"):
        decode(3)  # type: ignore[arg-type]


def claiming(kind: str, width: int, height: int) -> bytes:
    """A tiny real file whose header claims another size."""
    data = bytearray(saved(RGB[:16, :16], kind, **({"lossless": True} if kind == "webp" else {})))
    if kind == "png":
        data[16:24] = struct.pack(">II", width, height)
    elif kind == "bmp":
        data[18:26] = struct.pack("<ii", width, -height)
    elif kind == "gif":
        data[6:10] = struct.pack("<HH", width, height)
    elif kind == "jpeg":
        at = data.index(b"\xff\xc0")
        data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    elif kind == "webp":
        data[21:25] = struct.pack("<I", (width - 1) | (height - 1) << 14)
    elif kind == "avif":
        at = data.index(b"ispe")
        data[at + 8 : at + 16] = struct.pack(">II", width, height)
    elif kind == "tiff":
        (start,) = struct.unpack_from("<I", data, 4)
        for at in range(start + 2, start + 2 + 12 * struct.unpack_from("<H", data, start)[0], 12):
            tag = struct.unpack_from("<H", data, at)[0]
            if tag in (256, 257):
                data[at + 2 : at + 12] = struct.pack("<HII", 4, 1, width if tag == 256 else height)
    return bytes(data)


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "bmp", "gif", "tiff", "avif"])
def test_too_many_pixels_are_refused_before_decoding(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    side = {"jpeg": 65_000, "gif": 65_000, "webp": 16_000}.get(kind, 100_000)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ImageError, match=f"{side}x{side} pixels; at most 178,000,000"):
        decode(claiming(kind, side, side))


def test_the_pixel_limit_is_an_option_and_holds_for_arrays_too() -> None:
    data = saved(RGB, "png")
    assert decode(data, max_pixels=2400).shape == (40, 60, 3)
    for source in (data, RGB):
        with pytest.raises(ImageError, match="60x40 pixels; at most 2,399"):
            decode(source, max_pixels=2399)


def test_a_file_longer_than_any_allowed_image_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "long.png"
    with path.open("wb") as file:
        file.write(saved(RGB, "png"))
        file.truncate(2**40)  # sparse: takes no room
    with pytest.raises(ImageError, match="bytes or more"):
        decode(path)
    with path.open("rb") as file, pytest.raises(ImageError, match="bytes or more"):
        decode(file, max_pixels=10_000)


def test_a_jpeg_of_countless_scans_is_refused() -> None:
    data = saved(RGB, "jpeg", progressive=True)
    at = data.index(b"\xff\xda")
    scan = data[at : data.index(b"\xff\xda", at + 2)]
    with pytest.raises(ImageError, match="more than 200 scans"):
        decode(data[:at] + scan * 201 + data[at:])


def test_sizes_of_nothing_are_refused() -> None:
    for kind in ("png", "bmp", "gif", "tiff", "jpeg"):
        with pytest.raises(ImageError, match="nothing to score"):
            decode(claiming(kind, 0, 16))


def test_heic_without_a_decoder_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    box = struct.pack(">I4s4sI4s", 20, b"ftyp", b"heic", 0, b"heic")
    meta = struct.pack(">I4sI", 32, b"meta", 0) + struct.pack(">I4sIII", 20, b"ispe", 0, 640, 480)
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    with pytest.raises(ImageError, match=r"pip install .*\[heif\]'"):
        decode(box + meta)


def test_opencv_keeps_quiet_about_broken_images() -> None:
    code = (
        "import sys; from musiq.images.decode import decode; from musiq.errors import ImageError\n"
        "try: decode(sys.stdin.buffer)\n"
        "except ImageError as problem: print(problem)"
    )
    data = saved(RGB, "tiff", compression="tiff_lzw")[:-40]
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True)
    assert b"cut short" in done.stdout
    assert done.stderr == b""


def test_prepare_is_decode_then_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved(scene(5, 90, 200), "png")
    want = fit(decode(data), 40, 60)
    for large in (1, 10**9):  # with and without taking turns
        monkeypatch.setattr(sys.modules["musiq.images.decode"], "LARGE", large)
        got = prepare(data, 40, 60)
        np.testing.assert_array_equal(got[0], want[0])
        assert got[1] == want[1]


def test_prepare_for_any_size_leaves_an_image_as_it_is_or_resizes_it_by_a_policy() -> None:
    data = saved(scene(5, 90, 200), "png")
    image, said = prepare(data)
    np.testing.assert_array_equal(image, decode(data))
    assert said == ""
    assert [
        (*prepare(data, resize=how)[0].shape[:2], prepare(data, resize=how)[1]) for how in ("longer=100", "native")
    ] == [
        (45, 100, "resized 0.5x"),
        (90, 200, ""),
    ]
    with pytest.raises(MusiqError, match="a height without a width"):
        prepare(data, 40)
    with pytest.raises(MusiqError, match="no resize policy 'half'"):
        prepare(data, resize="half")


def jpeg(height: int, width: int, orientation: int = 1) -> bytes:
    """A photograph-like JPEG: large shapes and some grain."""
    return saved(photo(height, width, 3), "jpeg", quality=92, exif=exif(orientation))


@pytest.mark.parametrize(
    ("shape", "times"),
    [((39, 59), 1), ((79, 200), 1), ((80, 120), 2), ((159, 400), 2), ((160, 240), 4), ((320, 480), 8), ((999, 999), 8)],
)
def test_a_reduced_jpeg_is_decoded_at_the_smallest_part_that_covers(shape: tuple[int, int], times: int) -> None:
    with decoded(jpeg(*shape), cover=lambda height, width: (40, 60)) as (image, reduction, size):
        assert (reduction, size) == (times, shape)
        assert image.shape == (-(-shape[0] // times), -(-shape[1] // times), 3)
    png = saved(scene(1, *shape), "png")
    with decoded(png, cover=lambda height, width: (40, 60)) as (image, reduction, size):
        assert (reduction, image.shape[:2], size) == (1, shape, shape)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_reduced_jpeg_is_the_average_of_the_whole_one_and_upright(orientation: int) -> None:
    data = jpeg(320, 640, orientation)
    whole, _ = fit(decode(data), 40, 40)
    with decoded(data, cover=lambda height, width: (40, 40)) as (image, reduction, size):
        assert size == decode(data).shape[:2]
        reduced, said = fit(image, 40, 40, reduction)
    assert said.startswith("decoded at 1/8")
    assert np.abs(reduced.astype(int) - whole).mean() < 1.5


def test_a_reduced_jpeg_that_is_cut_short_is_refused_like_a_whole_one() -> None:
    data = jpeg(320, 480)
    with (
        pytest.raises(ImageError, match="cut short or corrupt"),
        decoded(data[: len(data) // 2], cover=lambda *_: (40, 60)),
    ):
        pass


def test_a_url_without_its_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(ImageError, match=r"pip install .*\[url\]'"):
        decode("https://example.org/a.jpg")


def test_options_that_make_no_sense_are_refused() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(MusiqError, match="no background 'red'"):
        decode(image, background="red")  # type: ignore[arg-type]
    with pytest.raises(MusiqError, match="max_pixels is 0"):
        decode(image, max_pixels=0)
    with pytest.raises(MusiqError, match="width is 0"):
        prepare("missing.jpg", 4, 0)
