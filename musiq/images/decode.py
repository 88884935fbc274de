"""Decodes images: from a file, bytes or an array to upright uint8 RGB pixels.

Training and scoring go through the same two functions, `decode` and `musiq.images.fit`, so that they cannot drift apart.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from musiq.errors import ImageError, MusiqError, check_positive, pip_install
from musiq.images.fit import Image, Resize, fit
from musiq.images.header import AGAIN, Header, read_header
from musiq.images.stored import eight_bit, opencv_decoded, read_stored

Source = str | Path | bytes | NDArray[Any] | BinaryIO
Background = Literal["white", "black"]
JpegDecoder = Callable[[bytes], Image | None]
"""A JPEG's bytes to its pixels as stored, (H, W, 3) RGB; None for what it leaves to OpenCV."""

Cover = Callable[[int, int], tuple[int, int] | None]
"""An upright image's (height, width) to what a JPEG that is decoded at a part of its size still has to cover; None for the
whole. Raises ImageError for an image that is not to be decoded."""

MAX_PIXELS = 178_000_000
"""Pixels of the largest image decoded by default: what Pillow's guard against decompression bombs allows at most."""

LARGE = 32_000_000
"""Pixels from which images are decoded one at a time; ordinary cameras stay below."""

_LARGE_IN_TURN = threading.Lock()

EXACT = ("JPEG", "PNG", "WebP", "BMP", "GIF")
"""Formats whose header tells what size comes out: decoders of the others turn or crop the image by themselves."""

JPEG = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
"""libjpeg writes RGB by itself, from grey and CMYK too; as BGR each pixel would be turned round twice."""

REDUCED = {
    1: JPEG,
    2: JPEG | cv2.IMREAD_REDUCED_GRAYSCALE_2,  # whose bits stand for the part alone
    4: JPEG | cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: JPEG | cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
"""How OpenCV decodes a JPEG at one part in so many: libjpeg's own scaling, which is part of its inverse transform."""


def decode(source: Source, *, max_pixels: int = MAX_PIXELS, background: Background = "white") -> Image:
    """Read one image, upright and without alpha.

    EXIF orientation is applied, 16 bits are scaled to 8, grey is repeated, CMYK is converted; of an animation the first
    frame counts. Colour profiles are ignored. Damage that a decoder can get over, such as wrong bits inside a complete
    JPEG, goes unnoticed.

    Args:
        source: A path, a URL (needs the extra `url`), the bytes of a file, a file object open for reading bytes, or an
            array: uint8 or uint16, (H, W) grey, (H, W, 3) RGB or (H, W, 4) RGBA. HEIC needs the extra `heif`, JPEG XL
            `jpegxl`.
        max_pixels: Pixels allowed, at least 1; the header tells how many there are before anything is decoded.
        background: "white" or "black", what alpha is laid over.

    Returns:
        uint8 RGB (H, W, 3), contiguous, in [0, 255].

    Raises:
        ImageError: The image cannot be read, is cut short, of a kind that no decoder here represents faithfully, or has
            more than `max_pixels` pixels; one line says which.
        MusiqError: `max_pixels` or `background` is not one of those above.
    """
    check_decoding(max_pixels, background)
    if isinstance(source, np.ndarray):
        return flattened(eight_bit(_checked_array(source, max_pixels)), background, multiplied=False)
    data, header = _opened(source, max_pixels)
    return _upright(data, header, background)


def prepare(
    source: Source,
    height: int | None = None,
    width: int | None = None,
    *,
    resize: str = "native",
    max_pixels: int = MAX_PIXELS,
) -> tuple[Image, str]:
    """`decode`, then `fit` or a resize policy, for many threads at once (see `decoded`): what models train on and score.

    Args:
        source: As of `decode`; alpha is laid over white.
        height: Pixels of the model's images, which `fit` makes; None, as the width, for a model of any size.
        width: Pixels of the model's images.
        resize: For a model of any size: "native", "longer=N", "shorter=N" or "vbench", as `musiq.load` has it.
        max_pixels: Pixels allowed in the image as it is stored.

    Returns:
        uint8 RGB (height, width, 3), and how the image was made to fit, in a few words, "" if it already did.

    Raises:
        ImageError: As of `decode`.
        MusiqError: `height`, `width` or `max_pixels` is less than 1, only one of the sides is given, or there is no such
            policy.
    """
    check_positive(height=height, width=width)
    policy = Resize.parse(resize)
    if (height is None) != (width is None):
        raise MusiqError("There is a height without a width, or a width alone; expected both, or none for any size.")
    with decoded(source, max_pixels=max_pixels) as (image, _, size):
        return (
            policy.apply(image, *policy.size(*size)) if height is None or width is None else fit(image, height, width)
        )


@contextmanager
def decoded(
    source: Source,
    *,
    max_pixels: int = MAX_PIXELS,
    background: Background = "white",
    cover: Cover | None = None,
    jpeg: JpegDecoder | None = None,
) -> Iterator[tuple[Image, int, tuple[int, int]]]:
    """`decode` for many threads at once: they take turns with images of more than LARGE pixels, to the block's end.

    So the memory of N threads is bounded by N images of LARGE pixels and one of `max_pixels`, at 6 bytes a pixel, or up
    to 16 with alpha, 16 bits or AVIF.

    Args:
        source: As of `decode`.
        max_pixels: Pixels allowed.
        background: What alpha is laid over.
        cover: What of the image is needed, asked before anything is decoded where the header tells the size for sure. A
            JPEG is decoded at 1/2, 1/4 or 1/8 of its size, the smallest that covers what this says: libjpeg leaves out
            the fine detail that `fit` would average away, in a fraction of the time, but not to the same pixels.
        jpeg: Decodes whole JPEGs instead of OpenCV, which gets those that it returns None for.

    Yields:
        uint8 RGB (H, W, 3), the part of its size that the image was decoded at (1, 2, 4 or 8), and the (height, width) of
        the whole.

    Raises:
        ImageError: As of `decode`, or what `cover` says.
        MusiqError: As of `decode`.
    """
    check_decoding(max_pixels, background)
    if isinstance(source, np.ndarray):
        image = decode(source, max_pixels=max_pixels, background=background)
        yield image, 1, image.shape[:2]
        return
    data, header = _opened(source, max_pixels)
    stored = header.height, header.width
    size = stored[::-1] if header.orientation > 4 else stored
    needed = cover(*size) if cover and header.format in EXACT else None
    times = _reduction(size, needed) if needed and header.format == "JPEG" else 1
    with _LARGE_IN_TURN if header.width * header.height > LARGE else nullcontext():
        image = _upright(data, header, background, times, jpeg)
        yield image, times, size if times > 1 else image.shape[:2]


def check_decoding(max_pixels: int | None, background: str) -> None:
    """Raise MusiqError for options that `decode` does not have."""
    if max_pixels is None:  # which stands for a default elsewhere, and here would be no limit
        raise MusiqError("max_pixels is None; expected a whole number of at least 1.")
    check_positive(max_pixels=max_pixels)
    if background not in get_args(Background):
        raise MusiqError(f"There is no background {background!r}; there are {' and '.join(get_args(Background))}.")


def _reduction(size: tuple[int, int], needed: tuple[int, int]) -> int:
    """The largest of 1, 2, 4, 8 that leaves a JPEG of that (height, width) at least the `needed` one large."""
    room = min(size[0] // needed[0], size[1] // needed[1])
    return max(times for times in REDUCED if times <= max(1, room))


def _opened(source: str | Path | bytes | BinaryIO, max_pixels: int) -> tuple[bytes, Header]:
    """A file's bytes and header, refused where it claims too many pixels."""
    data = _read(source, max_bytes=8 * max_pixels + 2**20)  # 16-bit RGBA without compression, and metadata
    header = read_header(data)
    check_pixels(header.width, header.height, max_pixels)
    return data, header


def _upright(
    data: bytes, header: Header, background: Background, reduction: int = 1, jpeg: JpegDecoder | None = None
) -> Image:
    if header.format == "JPEG":
        stored = jpeg(data) if jpeg and reduction == 1 else None
        if stored is None:
            stored = np.asarray(opencv_decoded(data, header, REDUCED[reduction]), np.uint8)
        return turned(stored, header.orientation)
    image, multiplied = read_stored(data, header)
    return turned(flattened(image, background, multiplied), header.orientation)


def _read(source: str | Path | bytes | BinaryIO, max_bytes: int) -> bytes:
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
    elif source == "":  # which Path would take for the folder that we are in
        raise ImageError("The name of the image is empty; expected a path or a URL.")
    elif isinstance(source, (str, Path)):
        data = _read_url(source, max_bytes) if "://" in str(source) else _read_file(Path(source), max_bytes)
    elif hasattr(source, "read"):
        data = source.read(max_bytes + 1)
        if not isinstance(data, bytes):
            raise ImageError(
                f"The file object gives {type(data).__name__}, not bytes. Open it for reading bytes ('rb')."
            )
    else:
        raise ImageError(f"Cannot read an image from {type(source).__name__}; give a path, bytes, an array or a file.")
    if len(data) > max_bytes:
        raise ImageError(_too_long(len(data), max_bytes))
    if not data:
        raise ImageError(f"The file is empty. {AGAIN}")
    return data


def _read_file(path: Path, max_bytes: int) -> bytes:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            os.scandir(path).close()  # one that cannot be listed is left among the images of the folder around it
            raise ImageError("This is a folder; expected an image. musiq.images.find_images gives those inside.")
        if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device may never end
            raise ImageError("This is no regular file; expected an image. Copy it to a file first.")
        if status.st_size > max_bytes:
            raise ImageError(_too_long(status.st_size, max_bytes))
        return path.read_bytes()
    except (OSError, ValueError) as problem:  # ValueError: a NUL in the path
        reason = "there is no such file or folder" if isinstance(problem, FileNotFoundError) else str(problem)
        raise ImageError(f"Cannot read the file: {reason}. Check the path and its permissions.") from problem


def _read_url(url: str | Path, max_bytes: int) -> bytes:
    with opened_url(str(url)) as file:
        return bytes(file.read(max_bytes + 1))


@contextmanager
def opened_url(url: str) -> Iterator[BinaryIO]:
    """A URL open for reading bytes. Raises ImageError that says why it cannot be read, also while it is."""
    try:
        import fsspec  # type: ignore[import-untyped,unused-ignore]
    except ImportError as problem:
        raise ImageError(f"Reading from a URL needs fsspec: {pip_install('url')}.") from problem
    try:
        with fsspec.open(url, "rb") as file:
            yield file
    except MusiqError:
        raise
    except Exception as problem:  # each protocol has errors of its own
        line = " ".join(str(problem).split())
        raise ImageError(
            f"Cannot read the URL: {type(problem).__name__} {line}. Check it and the network."
        ) from problem


def _too_long(size: int, max_bytes: int) -> str:
    return (
        f"The file has {size:,} bytes or more; at most {max_bytes:,} are read, which follows from the pixel limit. "
        "Raise the limit (max_pixels), or save the image smaller."
    )


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Raise ImageError for more pixels than are decoded."""
    if width * height > max_pixels:
        raise ImageError(
            f"The image has {width}x{height} pixels; at most {max_pixels:,} are decoded. "
            "Raise the limit (max_pixels), or make it smaller."
        )


def _checked_array(array: NDArray[Any], max_pixels: int) -> NDArray[Any]:
    fits = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))
    if not fits or array.dtype not in (np.uint8, np.uint16) or array.size == 0:
        raise ImageError(
            f"Cannot score an array {array.dtype} {array.shape}; expected uint8 or uint16, (H, W) grey, (H, W, 3) RGB "
            "or (H, W, 4) RGBA. Convert it first."
        )
    check_pixels(array.shape[1], array.shape[0], max_pixels)
    array = np.ascontiguousarray(array)
    if array.ndim == 2 or array.shape[2] == 1:
        return np.asarray(cv2.cvtColor(array, cv2.COLOR_GRAY2RGB))
    return array


def flattened(image: Image, background: Background, multiplied: bool) -> Image:
    """Alpha laid over the background: colour * a + background * (1 - a), rounded once."""
    if image.shape[2] == 3:
        return image
    colour, alpha = np.ascontiguousarray(image[:, :, :3]), np.ascontiguousarray(image[:, :, 3])
    if alpha.min() == 255:
        return colour
    alpha = np.asarray(cv2.merge([alpha, alpha, alpha]), np.uint8)
    if not multiplied:
        colour = np.asarray(cv2.multiply(colour, alpha, scale=1 / 255), np.uint8)
    return np.asarray(cv2.add(colour, 255 - alpha), np.uint8) if background == "white" else colour


def turned(image: Image, orientation: int) -> Image:
    """Undo EXIF orientations 2..8: 5..8 are stored transposed, the rest of each is flips."""
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)
