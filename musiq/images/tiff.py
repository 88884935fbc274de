"""Reads the tags of TIFF files: which of a file's images is the photo, how its samples lie, and whether they can be read.

TIFF is a family of formats: OpenCV reads its common members and, of the others, makes black images, wrong colours or
memory that was never written, without a word. So the tags decide before any decoder runs (TIFF 6.0 and its supplements):
OpenCV where it is known to be right, `musiq.images.tiff_samples` for what it leaves out, and a refusal that names the
feature for the rest.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from musiq.errors import ImageError

MAX_TAGS = 10_000
"""Tags looked at in one directory; real ones hold dozens."""

MAX_DIRECTORIES = 64
"""Images looked at in search of the photo, which is among the first few."""

MOST_PADDING = 2**24
"""Bytes that a tile may hold beside those of the image, which a small image does not fill."""

NUMBERS = {1: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}
"""The whole numbers among the types of TIFF's values, as NumPy names them."""

EXTRA_SAMPLES = 338
WHITE_IS_0, BLACK_IS_0, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
COLOURS = {WHITE_IS_0: 1, BLACK_IS_0: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3}
"""Bands that carry the colours of each photometric interpretation read here; what follows them is "extra"."""

NO_COMPRESSION, LZW, JPEG, DEFLATE, PACKBITS, OLD_DEFLATE = 1, 5, 7, 8, 32773, 32946
DEFLATES = (DEFLATE, OLD_DEFLATE)
PREDICTED = (LZW, *DEFLATES)
BYTEWISE = (NO_COMPRESSION, PACKBITS, *PREDICTED)
"""Compressions of bytes, whatever the bytes mean."""

FAX = (2, 3, 4, 32771)
UNREAD_COMPRESSIONS = {
    **dict.fromkeys((33003, 33004, 33005, 34712), "JPEG 2000"),
    **dict.fromkeys((50002, 52546), "JPEG XL"),
    **dict.fromkeys((22610, 34934), "JPEG XR"),
    **dict.fromkeys((34925, 34926), "LZMA or early Zstandard"),
    **dict.fromkeys((34676, 34677), "SGI LogLuv"),
    6: "old-style JPEG",
    32766: "NeXT",
    32809: "ThunderScan",
    32909: "PixarLog",
    34661: "JBIG",
    34887: "LERC",
    34892: "lossy DNG",
    50000: "Zstandard",
    50001: "WebP",
}
UNREAD_COLOURS = {
    4: "a transparency mask",
    **dict.fromkeys((8, 9, 10), "CIE Lab colours"),
    **dict.fromkeys((32844, 32845), "LogLuv colours of high dynamic range"),
}
CAMERA_RAW = (32803, 34892)
"""Colour filter array and linear raw: what a sensor saw, before it is made an image."""


@dataclass(frozen=True)
class Directory:
    """The tags of one image: for each its type, its number of values and where in the file they lie."""

    data: bytes = field(repr=False)
    order: str
    big: bool
    entries: dict[int, tuple[int, int, int]]
    start: int
    next: int

    def numbers(self, tag: int) -> list[int]:
        """The values of a whole-number tag, none where it is missing or of another type. Raises struct.error where they
        lie beyond the file's end."""
        kind, count, at = self.entries.get(tag, (0, 0, 0))
        if kind not in NUMBERS:
            return []
        wanted = np.dtype(self.order + NUMBERS[kind])
        if at + count * wanted.itemsize > len(self.data):
            raise struct.error(f"tag {tag} lies beyond the end")
        return [int(value) for value in np.frombuffer(self.data, wanted, count, at)]

    def number(self, tag: int, default: int = 0) -> int:
        """The first value of a whole-number tag."""
        return next(iter(self.numbers(tag)), default)

    def as_first(self) -> bytes:
        """The file with this directory as its first, which is the one that decoders read."""
        place, word = (8, "Q") if self.big else (4, "I")
        first = struct.pack(self.order + word, self.start)
        if self.data[place : place + len(first)] == first:
            return self.data
        return self.data[:place] + first + self.data[place + len(first) :]


@dataclass(frozen=True)
class Layout:
    """How the samples of one image lie in the file. `extra` are the values of tag ExtraSamples, one a band that is no
    colour; `bits` those of each sample; `tile_bytes` those of an uncompressed tile, 0 for strips."""

    width: int
    height: int
    bits: int
    photometric: int
    samples: int
    planar: bool
    compression: int
    extra: tuple[int, ...]
    sample_format: int
    predictor: int
    tile_bytes: int
    ink_set: int
    orientation: int

    @property
    def alpha(self) -> int:
        """0: opaque, 1: the colours are multiplied by alpha already, 2: they are not."""
        return next((meaning for meaning in self.extra if meaning in (1, 2)), 0)

    @property
    def by_opencv(self) -> bool:
        """Whether OpenCV gives the samples as they are, upright; the table in the tests holds it to that."""
        colours = self.photometric, self.samples
        if self.compression == NO_COMPRESSION and self.tile_bytes % 1024 and self.photometric != YCBCR:
            return False  # libtiff 4.7.1 rounds their size up and finds that it is not what it was
        if self.compression in FAX or self.bits == 1:
            return self.samples == 1 and self.photometric in (WHITE_IS_0, BLACK_IS_0)
        if self.bits == 4:
            return colours == (PALETTE, 1)
        if self.bits == 8 and colours in ((WHITE_IS_0, 1), (BLACK_IS_0, 1), (RGB, 3)):
            # Where a strip cannot be decompressed, libtiff leaves its rows black, but for samples of 16 bits.
            even_rows = self.width * (1 if self.planar else self.samples) % 2 == 0
            return self.compression not in DEFLATES and not (self.compression in (LZW, PACKBITS) and even_rows)
        if self.bits == 8:
            return self.samples == COLOURS.get(self.photometric) or colours == (RGB, 4)
        return self.bits > 8 and (colours == (BLACK_IS_0, 1) or (colours in ((RGB, 3), (RGB, 4)) and not self.planar))


def read_layout(data: bytes) -> tuple[Directory, Layout]:
    """The photo's directory and layout.

    Raises ImageError, which names the feature, for what can be read neither by OpenCV nor by us, and struct.error where
    the file ends inside its tags.
    """
    directory = _photo(data)
    layout = _layout(directory)
    unread = _unread(layout)
    if unread:
        raise ImageError(f"This TIFF has {unread}, which cannot be read. Save it as an ordinary TIFF, PNG or JPEG.")
    return directory, layout


def first_directory(data: bytes) -> Directory:
    """The tags of the first image, classic or BigTIFF; also of an EXIF block, which is laid out alike."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    (start,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    return _directory(data, order, big, start)


def _directory(data: bytes, order: str, big: bool, start: int) -> Directory:
    word, room = ("Q", 8) if big else ("I", 4)
    if start > len(data):
        raise struct.error("the tags lie beyond the end")
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
    first, step = (start + 8, 20) if big else (start + 2, 12)
    entries: dict[int, tuple[int, int, int]] = {}
    for at in range(first, first + step * min(count, MAX_TAGS), step):
        tag, kind, values = struct.unpack_from(order + "HH" + word, data, at)
        place = at + step - room
        if kind not in NUMBERS or values * np.dtype(NUMBERS[kind]).itemsize > room:
            (place,) = struct.unpack_from(order + word, data, place)
        entries.setdefault(tag, (kind, values, place))
    after = first + step * count
    (following,) = struct.unpack_from(order + word, data, after) if after + room <= len(data) else (0,)
    return Directory(data, order, big, entries, start, following)


def _photo(data: bytes) -> Directory:
    """The directory of the photo: the first that is no thumbnail or mask, of those side by side the largest.

    Cameras and some scanners put a thumbnail first and the photo in a SubIFD below it (TIFF/EP, Adobe's supplement 1).
    """
    first = first_directory(data)
    below = list(_below(first))
    pages = [first, *_following(first)]
    if data[8:10] == b"CR" or any(page.number(262) in CAMERA_RAW for page in (*pages, *below)):
        raise ImageError(
            "This is a camera raw file: what the sensor saw, not yet an image. Develop it, or score the JPEG."
        )
    candidates = [page for page in (first, *below) if not _lesser(page)]
    if candidates:
        return max(candidates, key=lambda page: page.number(256) * page.number(257))
    return next((page for page in pages if not _lesser(page)), first)


def _lesser(page: Directory) -> bool:
    """Whether a directory says of itself that it is a reduced version or a mask of another."""
    return bool(page.number(254) & 5) or page.number(255) == 2


def _following(first: Directory) -> Iterator[Directory]:
    """The pages after the first, as far as they can be read."""
    page, seen = first, {first.start}
    while page.next and page.next not in seen and len(seen) < MAX_DIRECTORIES:
        seen.add(page.next)
        try:
            page = _directory(first.data, first.order, first.big, page.next)
        except struct.error:
            return
        yield page


def _below(first: Directory) -> Iterator[Directory]:
    """The SubIFDs of the first page, as far as they can be read."""
    for start in first.numbers(330)[:MAX_DIRECTORIES]:
        try:
            yield _directory(first.data, first.order, first.big, start)
        except struct.error:
            continue


def _layout(page: Directory) -> Layout:
    photometric, samples = page.number(262, -1), page.number(277, 1)
    bits = set(page.numbers(258)[:samples]) or {1}
    if len(bits) > 1:
        raise ImageError(f"This TIFF has bands of {sorted(bits)} bits; only bands of the same bits can be read.")
    extra = tuple(page.numbers(EXTRA_SAMPLES))[: max(0, samples - COLOURS.get(photometric, samples))]
    if (photometric, samples, extra) == (RGB, 4, ()):
        extra = (2,)  # the fourth band of writers that leave the tag out is alpha
    planar = page.number(284, 1) == 2 and samples > 1
    tile_row = -(-page.number(322) * max(bits) * (1 if planar else samples) // 8)
    return Layout(
        width=page.number(256),
        height=page.number(257),
        bits=bits.pop(),
        photometric=photometric,
        samples=samples,
        planar=planar,
        compression=page.number(259, 1),
        extra=extra,
        sample_format=page.number(339, 1),
        predictor=page.number(317, 1),
        tile_bytes=tile_row * page.number(323),
        ink_set=page.number(332, 1),
        orientation=page.number(274, 1),
    )


def _unread(layout: Layout) -> str:
    """The feature that nothing here reads, in a few words; "" where there is none."""
    return _unread_samples(layout) or _unread_compression(layout) or _unread_colours(layout)


def _unread_samples(layout: Layout) -> str:
    if layout.sample_format in (3, 6):
        return f"floating-point samples of {layout.bits} bits (what is white is not defined)"
    if layout.sample_format != 1:
        return f"signed or untyped samples of {layout.bits} bits"
    if layout.bits not in (1, 2, 4, 8, 10, 12, 14, 16):
        return f"samples of {layout.bits} bits"
    if layout.compression in PREDICTED and layout.predictor not in (1, 2):
        return f"a predictor of kind {layout.predictor}"
    if layout.compression in PREDICTED and layout.predictor == 2 and layout.bits not in (8, 16):
        return f"a predictor for samples of {layout.bits} bits"
    return ""


def _unread_compression(layout: Layout) -> str:
    compression = layout.compression
    if compression in FAX:
        return "" if layout.bits == layout.samples == 1 else "fax compression of more than one bit"
    if compression == JPEG:
        if layout.bits != 8:
            return f"JPEG compression of {layout.bits} bits"
        if not layout.by_opencv and not layout.planar and layout.samples > 1:
            return f"JPEG compression of {layout.samples} bands"
        return ""
    if compression not in BYTEWISE:
        return f"{UNREAD_COMPRESSIONS.get(compression, f'unknown (number {compression})')} compression"
    return ""


def _unread_colours(layout: Layout) -> str:
    photometric, bits = layout.photometric, layout.bits
    if photometric not in COLOURS:
        return UNREAD_COLOURS.get(photometric, f"an unknown kind of colours (PhotometricInterpretation {photometric})")
    more = layout.samples - COLOURS[photometric]
    if more < 0:
        return f"{layout.samples} bands, fewer than its colours need"
    if more > len(layout.extra):
        return f"{layout.samples} bands without saying what they are (no ExtraSamples)"
    if photometric in (WHITE_IS_0, BLACK_IS_0) and more > 1:
        return f"{layout.samples} bands, of which it names one grey and none a colour"
    if photometric == PALETTE and bits > 8:
        return f"a palette of {bits} bits"
    if photometric == CMYK and layout.ink_set != 1:
        return "inks other than CMYK"
    if photometric == YCBCR and (bits != 8 or more):
        return f"YCbCr colours in {layout.samples} bands of {bits} bits"
    if layout.alpha == 1 and photometric not in (BLACK_IS_0, RGB):
        return "alpha multiplied into colours that are neither grey nor RGB"
    return ""


def check_end(page: Directory, layout: Layout) -> None:
    """Raise struct.error for a file that ends before its samples do: libtiff would fill in black, without a word.

    Raises ImageError where the tags name too few strips or tiles: libtiff would read the rest from anywhere.
    """
    places, sizes = pieces(page)
    # Old writers leave the sizes out, and libtiff works them out.
    _check_count(page, layout, min(len(places), len(sizes) or len(places)))
    if layout.compression == NO_COMPRESSION and layout.photometric != YCBCR:
        most = piece_shape(page, layout)[0] * piece_shape(page, layout)[1]  # some writers name more than there is
        sizes = [min(size, most) for size in sizes]
    if any(place + size > len(page.data) for place, size in zip(places, sizes, strict=False)):
        raise struct.error("samples lie beyond the end")


def _check_count(page: Directory, layout: Layout, found: int) -> None:
    tiled = 322 in page.entries
    across = -(-layout.width // max(1, page.number(322))) if tiled else 1
    rows = page.number(323) if tiled else page.number(278)
    needed = -(-layout.height // (rows or layout.height)) * across * (layout.samples if layout.planar else 1)
    if found < needed:
        what = "tiles" if tiled else "strips"
        raise ImageError(
            f"This TIFF is damaged: it names too few {what}, {found} of {needed}. Copy or download it again."
        )


def pieces(page: Directory) -> tuple[list[int], list[int]]:
    """Where the strips or tiles of an image begin and how many bytes each has."""
    tiled = 322 in page.entries
    return page.numbers(324 if tiled else 273), page.numbers(325 if tiled else 279)


def piece_shape(page: Directory, layout: Layout) -> tuple[int, int]:
    """The rows of a whole strip or tile, and the bytes of one of its rows once decompressed.

    Raises struct.error where there are none, or many more than the image has.
    """
    tiled = 322 in page.entries
    width = page.number(322) if tiled else layout.width
    rows = page.number(323) if tiled else min(page.number(278) or layout.height, layout.height)
    bands = 1 if layout.planar else layout.samples
    row_bytes = -(-width * layout.bits * bands // 8)
    if not 0 < rows * row_bytes <= MOST_PADDING + 4 * layout.width * layout.height * layout.bits * bands:
        raise struct.error(f"strips or tiles of {rows} rows of {row_bytes} bytes")
    return rows, row_bytes
