"""GIFs that end too early, which FFmpeg does not tell: it shows the last image as far as that came."""

from __future__ import annotations

TRAILER, EXTENSION, IMAGE = 0x3B, 0x21, 0x2C
"""The bytes that blocks begin with."""


def whole_images(data: bytes) -> int | None:
    """How many images are whole of a GIF that breaks off; None for one that reaches its end."""
    images = 0
    try:
        at = 13 + _table_bytes(data[10])
        while data[at] != TRAILER:
            if data[at] not in (EXTENSION, IMAGE):  # damage; the image before it may have ended anywhere
                return max(0, images - 1)
            is_image = data[at] == IMAGE
            at += 11 + _table_bytes(data[at + 9]) if is_image else 2
            while size := data[at]:
                at += 1 + size
            at += 1
            images += is_image
    except IndexError:
        return images
    return None


def _table_bytes(flags: int) -> int:
    """Of the table of colours that these flags announce."""
    return 3 * (2 << (flags & 7)) if flags & 0x80 else 0
