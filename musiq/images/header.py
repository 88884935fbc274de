"""Reads the headers of image files: what a file claims to be, its format, size and orientation.

A few hundred bytes can claim 100000x100000 pixels and cost their reader 30 GB, so the size is known before any decoder
runs. What neither OpenCV nor this package decodes right is refused here, by name.

Neither imagesize nor Pillow, which read headers too, would do: they have none of the guards of this one, which counts a
JPEG's scans, checks that no PNG chunk goes beyond the file, and tells the kinds of TIFF and BMP that OpenCV gets wrong
and the bits of an AVIF's samples, which it leaves out.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from musiq.errors import ImageError
from musiq.images import bmp, jpegxl, tiff

FORMATS = "JPEG, PNG, WebP, BMP, TIFF, GIF, AVIF, HEIC, JPEG XL"
AGAIN = "Copy or download it again."
MAX_PARTS = 10_000
"""Segments, chunks or tags looked at in one file; real ones hold dozens, hostile ones millions of empty ones."""

MAX_CHUNKS = 1_000_000
"""Chunks in one PNG, some of whose writers cut the samples into pieces of 8 KiB."""

MAX_SCANS = 200
"""Scans in one JPEG; encoders write about ten, and each costs a pass over the whole image however few its bytes."""


@dataclass(frozen=True)
class Header:
    """What the first bytes of an image file say.

    Attributes:
        format: One of FORMATS.
        width: Pixels as stored, before `orientation` turns them.
        height: Pixels as stored.
        orientation: EXIF 2.3's, 1 (upright) to 8.
        depth: Bits of a sample that is decoded to uint16; those of AVIF and JPEG XL are left unscaled.
        transparent: The one value of a grey PNG's samples that is transparent, as they are decoded.
        kind: A word for a kind of JPEG that not every decoder knows, "" for ordinary ones.
    """

    format: str
    width: int
    height: int
    orientation: int = 1
    depth: int = 16
    transparent: int | None = None
    kind: str = ""


def read_header(data: bytes) -> Header:
    """The header of an image file.

    Args:
        data: The whole file.

    Raises:
        ImageError: The format is unknown, or the header is cut short, nonsensical or of a kind that does harm.
    """
    reader = next((reader for magic, reader in READERS if magic.match(data)), None)
    if reader is None:
        raise ImageError(
            f"This is no image of a known kind ({described(data)}); expected {FORMATS}. Convert it to one."
        )
    try:
        header = reader(data)
    except (struct.error, IndexError) as problem:
        raise ImageError(f"The file ends inside its header: it is cut short. {AGAIN}") from problem
    if header.width <= 0 or header.height <= 0:
        raise ImageError(f"The {header.format} header says {header.width}x{header.height} pixels: nothing to score.")
    return header


def is_image(path: Path) -> bool:
    """Whether a file is there that has an image's header, whatever its name; False where it cannot be read."""
    try:
        with path.open("rb") as file:
            start = file.read(64)
            text = b"\0" not in start and start[:1] != b"\xff"  # which may begin like an image: BMW/1.jpg
            if text or not any(magic.match(start) for magic, _ in READERS):
                return False
            read_header(start + file.read())
    except (OSError, ImageError):
        return False
    return True


def described(data: bytes) -> str:
    """A few words on what the bytes look like instead."""
    start = data[:64].lstrip()
    if re.match(rb"(?i)<(!doctype|html|\?xml|svg)", start):
        return "HTML or XML, perhaps a download's error page"
    named = next((name for magic, name in OTHERS if magic.match(data)), None)
    if named:
        return named
    if start and all(byte >= 32 or byte in b"\t\r\n" for byte in data[:64]):
        return "it looks like text"
    return f"it starts with {data[:4].hex(' ')}"


def _jpeg(data: bytes) -> Header:
    width, height, kind, orientation = 0, 0, 0xC0, 0
    at = 2
    for _ in range(MAX_PARTS):
        at = data.index(b"\xff", at) if b"\xff" in data[at : at + 4096] else len(data)
        while data[at] == 0xFF:  # any number of fill bytes may stand before a marker
            at += 1
        marker = data[at]
        at += 1
        if marker == 0xDA:
            break
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            continue  # these have no length
        (length,) = struct.unpack_from(">H", data, at)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width, kind = *_frame(data, at, marker), marker
        elif marker == 0xE1 and data[at + 2 : at + 8] == b"Exif\0\0":
            # Of several blocks the first counts, as for Pillow and libvips.
            orientation = orientation or exif_orientation(data[at + 8 : at + length])
        at += max(2, length)
    if data.count(b"\xff\xda") > MAX_SCANS and _scans(data, at) > MAX_SCANS:
        raise ImageError(f"The JPEG has more than {MAX_SCANS} scans, which only harmful files do. Save it anew.")
    return Header("JPEG", width, height, orientation or 1, kind=UNUSUAL_JPEGS.get(kind, ""))


def _frame(data: bytes, at: int, marker: int) -> tuple[int, int]:
    """(height, width) of a frame whose header is at `at`. Raises ImageError where its samples have not 8 bits."""
    bits, height, width = struct.unpack_from(">BHH", data, at + 2)
    if bits != 8:
        name = "lossless JPEG" if marker in LOSSLESS else "JPEG"
        raise ImageError(f"This {name} has {bits} bits a sample; only 8 can be read. Save it as a PNG of 16 bits.")
    return height, width


def _scans(data: bytes, at: int) -> int:
    """The scans of a JPEG whose first is at `at`, up to the image's end: phones append videos, in which any bytes occur."""
    scans = 1
    for _ in range(MAX_PARTS):
        found = MARKER.search(data, at)
        if found is None or found[0] == b"\xff\xd9":
            return scans
        scans += found[0] == b"\xff\xda"
        (length,) = struct.unpack_from(">H", data, found.end())
        at = found.end() + length
    return MAX_SCANS + 1


def _png(data: bytes) -> Header:
    if data[12:16] == b"CgBI":
        raise ImageError(
            "This is a PNG as Xcode packs it into apps (CgBI), which only Apple's decoders read. Convert it."
        )
    width, height, bits, colour = struct.unpack_from(">IIBB", data, 16)
    orientation, at, transparent, animated = 1, 8, None, False
    for _ in range(MAX_CHUNKS):
        length, kind = struct.unpack_from(">I4s", data, at)
        # OpenCV makes room for what a chunk claims, up to 4 GB, before it looks whether the file has it.
        if at + 12 + length > len(data):
            break
        if kind == b"IEND":
            return Header("PNG", width, height, orientation, transparent=transparent)
        if kind == b"eXIf":
            orientation = exif_orientation(data[at + 8 : at + 8 + length].removeprefix(b"Exif\0\0"))
        animated = animated or kind == b"acTL"
        if animated and kind == b"IDAT" and _is_damaged(data, at, length):
            break  # OpenCV leaves what it cannot decode of an animation as memory happens to be
        if kind == b"tRNS" and colour == 0:
            # OpenCV scales 1, 2 and 4 bits to 8.
            transparent = struct.unpack_from(">H", data, at + 8)[0] * {1: 255, 2: 85, 4: 17}.get(bits, 1)
        at += 12 + length
    raise ImageError(
        f"The image (PNG {width}x{height}) is cut short or corrupt: a chunk ends early or is damaged. {AGAIN}"
    )


def _is_damaged(data: bytes, at: int, length: int) -> bool:
    """Whether the chunk at `at` has another checksum than it says."""
    end = at + 8 + length
    return bool(zlib.crc32(data[at + 4 : end]) != struct.unpack_from(">I", data, end)[0])


def _webp(data: bytes) -> Header:
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    orientation, at = 1, 12
    for _ in range(MAX_PARTS):
        if at + 8 > len(data):
            break
        kind, (length,) = data[at : at + 4], struct.unpack_from("<I", data, at + 4)
        if kind == b"EXIF":
            block = data[at + 8 : at + 8 + length]
            orientation = exif_orientation(block.removeprefix(b"Exif\0\0"))
            break
        at += 8 + length + length % 2
    return Header("WebP", width, height, orientation)


def _bmp(data: bytes) -> Header:
    info = bmp.read_info(data)
    return Header("BMP", info.width, info.height)


def _gif(data: bytes) -> Header:
    return Header("GIF", *struct.unpack_from("<HH", data, 6))


def _tiff(data: bytes) -> Header:
    _, layout = tiff.read_layout(data)
    # OpenCV's TIFF decoder is the one that turns the image itself, whatever its flags.
    turned = layout.by_opencv or not 1 <= layout.orientation <= 8
    return Header("TIFF", layout.width, layout.height, 1 if turned else layout.orientation)


def exif_orientation(block: bytes) -> int:
    """EXIF tag 274 of a TIFF block, 1 (upright) where it is missing, nonsensical or damaged."""
    try:
        orientation = tiff.first_directory(block).number(274, 1) if TIFF.match(block) else 1
    except struct.error:
        return 1
    return orientation if 1 <= orientation <= 8 else 1


def _heif(data: bytes) -> Header:
    """AVIF and HEIC: the largest of the sizes that the metadata names, as a grid of tiles has several."""
    (length,) = struct.unpack_from(">I", data)
    brands, meta = data[8:length], _box(data, b"meta")
    name = "AVIF" if b"avif" in brands or b"avis" in brands else "HEIC"
    sizes = [struct.unpack(">II", found[1]) for found in re.finditer(rb"ispe.{4}(.{8})", meta, re.DOTALL)]
    if not sizes:
        raise ImageError(f"The {name} header names no size: it is cut short or corrupt. {AGAIN}")
    width, height = max(sizes, key=lambda size: size[0] * size[1])
    turn, mirror = (re.search(rb"\0\0\0\x09" + kind + rb"(.)", meta, re.DOTALL) for kind in (b"irot", b"imir"))
    turned = turn[1][0] & 3 if turn else 0, mirror[1][0] & 1 if mirror else None
    # libheif, which decodes HEIC, turns the image itself.
    return Header(name, width, height, ORIENTATIONS[turned] if name == "AVIF" else 1, _av1_depth(meta))


def _jpegxl(data: bytes) -> Header:
    sizes = jpegxl.read_sizes(data)
    if not sizes.bits:
        raise ImageError(
            "This JPEG XL has floating-point samples, whose black and white are not defined. Save it as PNG."
        )
    return Header("JPEG XL", sizes.width, sizes.height, depth=sizes.bits)


def _av1_depth(meta: bytes) -> int:
    """Bits of a sample where the AV1 configuration says 10 or 12 (AV1-ISOBMFF 2.3.3), 16 elsewhere."""
    configuration = re.search(rb"av1C\x81.(.)", meta, re.DOTALL)
    flags = configuration[1][0] if configuration else 0
    is_high, is_twelve = bool(flags & 0x40), bool(flags & 0x20)
    if not is_high:
        return 16
    return 12 if is_twelve else 10


def _box(data: bytes, wanted: bytes) -> bytes:
    """The first top-level box of that kind in an ISO base media file (ISO/IEC 14496-12), all of the file without one."""
    at = 0
    for _ in range(MAX_PARTS):
        if at + 8 > len(data):
            break
        (length,) = struct.unpack_from(">I", data, at)
        if data[at + 4 : at + 8] == wanted:
            return data[at : at + length]
        if length < 8:  # 0: to the end of the file, 1: a 64-bit length follows
            break
        at += length
    return data


# (quarter turns anticlockwise, then mirrored top to bottom 0 or left to right 1) of ISO/IEC 23008-12 as EXIF orientation.
ORIENTATIONS: dict[tuple[int, int | None], int] = {
    **{(0, None): 1, (1, None): 8, (2, None): 3, (3, None): 6},
    **{(0, 0): 4, (1, 0): 5, (2, 0): 2, (3, 0): 7},
    **{(0, 1): 2, (1, 1): 7, (2, 1): 4, (3, 1): 5},
}

OTHERS = (
    (re.compile(rb"%PDF"), "a PDF"),
    (re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"), "JPEG 2000"),
    (re.compile(rb"8BPS"), "a Photoshop document"),
    (re.compile(rb"\x76\x2f\x31\x01"), "OpenEXR"),
    (re.compile(rb"....ftypcrx|FUJIFILMCCD-RAW|II(RO|RS|U\0)|MMOR", re.DOTALL), "a camera raw file"),
    (re.compile(rb"....(ftyp|moov|mdat)|RIFF....AVI |\x1a\x45\xdf\xa3", re.DOTALL), "a video"),
)
"""Kinds of files that people take for images, and how they begin."""

LOSSLESS = (0xC3, 0xC7, 0xCB, 0xCF)
UNUSUAL_JPEGS = {
    **dict.fromkeys((0xC3, 0xC7, 0xCB, 0xCF), "lossless"),
    **dict.fromkeys((0xC5, 0xC6), "hierarchical"),
    **dict.fromkeys((0xC9, 0xCA), "arithmetic-coded"),
    **dict.fromkeys((0xCD, 0xCE), "hierarchical, arithmetic-coded"),
}
"""Names of the frames (ITU T.81, table B.1) beyond the baseline and progressive ones."""

MARKER = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")
"""Markers that end the coded samples of a scan: not stuffed or fill bytes, nor restarts, which have no length."""

TIFF = re.compile(rb"II[*+]\0|MM\0[*+]")
READERS = (
    (re.compile(rb"\xff\xd8\xff"), _jpeg),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), _png),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), _webp),
    (re.compile(rb"BM"), _bmp),
    (re.compile(rb"GIF8[79]a"), _gif),
    (TIFF, _tiff),
    (re.compile(rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n"), _jpegxl),
    (re.compile(rb"....ftyp(avi[fs]|hei[cx]|hev[cx]|mif1|msf1)", re.DOTALL), _heif),
)
