"""Resize policies: how an image is made to fit the one size that a model is for, or what size a model of any sees."""

from __future__ import annotations

import re
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from musiq.errors import MusiqError, check_positive
from musiq.images.elongated import resize_middle
from musiq.images.vbench import seen_size, vbench_pixels

Image = NDArray[np.uint8]

MOST_RESIZED = 4
"""How many times the pixels of a model's image a whole resized one may have; of a larger one only the middle is made."""

LONGEST_SIDE = 65535
"""Pixels of a side at most: what a JPEG can have."""

VBENCH = {"vbench": "longer", "vbench-shorter": "shorter", "vbench-shorter-centercrop": "shorter-centercrop"}
"""The policies that are VBench's preprocessing, and its names for them."""

POLICIES = (
    f"native, cover, longer=N or shorter=N (1 to {LONGEST_SIDE} pixels; longer=N,enlarge to enlarge too), "
    f"{', '.join(VBENCH)}"
)


@dataclass(frozen=True)
class Resize:
    """A resize policy.

    Attributes:
        kind: "native" (the image as it is), "cover" (made to fit one size, see `fit`), one of VBENCH, or which side is to
            have a length: "longer" or "shorter".
        length: Pixels of that side; 0 where there is none.
        enlarges: Whether an image whose side is shorter grows; else it stays as it is.
    """

    kind: str = "native"
    length: int = 0
    enlarges: bool = False

    @classmethod
    def parse(cls, text: str) -> Resize:
        """The policy that a text names: "native", "cover", "longer=512", "shorter=512,enlarge", "vbench".

        Raises:
            MusiqError: It names none.
        """
        if text in VBENCH:
            return cls(text)
        found = re.fullmatch(r"(native|cover)|(longer|shorter)=([1-9][0-9]{0,4})(,enlarge)?", str(text))
        if found is None or int(found[3] or 0) > LONGEST_SIDE:
            raise MusiqError(f"There is no resize policy {text!r}; expected {POLICIES}.")
        return cls(found[1] or found[2], int(found[3] or 0), bool(found[4]))

    def __str__(self) -> str:
        return f"{self.kind}={self.length}{',enlarge' * self.enlarges}" if self.length else self.kind

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that an image of this height and width gets, aspect kept; "cover" says nothing of it."""
        if self.kind in VBENCH:
            return seen_size(VBENCH[self.kind], height, width)
        if not self.length:
            return height, width
        side = max(height, width) if self.kind == "longer" else min(height, width)
        if side <= self.length and not self.enlarges:
            return height, width
        return max(1, round(height * self.length / side)), max(1, round(width * self.length / side))

    def apply(self, image: Image, height: int, width: int, reduction: int = 1) -> tuple[Image, str]:
        """Make of an image what the model sees, and say how.

        Args:
            image: uint8 RGB (h, w, 3).
            height: Of what the model sees: that of `size`, for "cover" the model's own.
            width: As the height.
            reduction: As of `fit`.

        Returns:
            uint8 RGB (height, width, 3), and what was done in a few words.
        """
        if self.kind in VBENCH:
            return vbench_pixels(image, VBENCH[self.kind])
        return (fit if self.kind == "cover" else scale_to)(image, height, width, reduction)


def scale_to(image: Image, height: int, width: int, reduction: int = 1) -> tuple[Image, str]:
    """Resize a whole image, and say how. Shrinking averages areas, enlarging is cubic, as in `fit`.

    Args:
        image: uint8 RGB (h, w, 3).
        height: Pixels wanted, at least 1.
        width: Pixels wanted, at least 1.
        reduction: The part of its size that the image was decoded at, as `decoded` said; for the words alone.

    Returns:
        uint8 RGB (height, width, 3), and what was done in a few words: "resized 0.5x", "" for an image of that size.
    """
    rows, columns = image.shape[:2]
    steps = [f"decoded at 1/{reduction}"] if reduction > 1 else []
    if (rows, columns) != (height, width):
        ratio = max(height, width) / max(rows, columns)
        image = _resized(image, (width, height), ratio)
        steps.append(f"resized {ratio:.3g}x")
    return image, "; ".join(steps)


def fit(image: Image, height: int, width: int, reduction: int = 1) -> tuple[Image, str]:
    """Make an image of any size exactly height x width, and say how.

    It is resized to cover height x width, aspect kept, and the middle is cropped. Shrinking averages areas
    (cv2.INTER_AREA), which does not alias; enlarging is cubic (cv2.INTER_CUBIC). A portrait image is not rotated: it
    loses top and bottom.

    Args:
        image: uint8 RGB (h, w, 3).
        height: Pixels wanted, at least 1.
        width: Pixels wanted, at least 1.
        reduction: The part of its size that the image was decoded at, as `decoded` said; for the words alone.

    Returns:
        uint8 RGB (height, width, 3), contiguous, and what was done in a few words: "resized 0.5x; cropped 60x80 to 60x40",
        "" if the image already fitted.

    Raises:
        MusiqError: `height` or `width` is less than 1.

    References:
        How the authors of KonIQ-10k made their 1024x768 images: Hosu et al., arXiv 1910.06180, section 3.
    """
    check_positive(height=height, width=width)
    rows, columns = image.shape[:2]
    ratio = max(height / rows, width / columns)
    size = max(width, round(columns * ratio)), max(height, round(rows * ratio))  # never a pixel short of covering
    steps = [f"decoded at 1/{reduction}"] if reduction > 1 else []
    if size != (columns, rows):
        if size[0] * size[1] > MOST_RESIZED * width * height:
            image = resize_middle(image, size, (width, height), shrinks=ratio < 1)
        else:
            image = _resized(image, size, ratio)
        steps.append(f"resized {ratio:.3g}x")
    if size != (width, height):
        top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
        image = np.ascontiguousarray(image[top : top + height, left : left + width])
        steps.append(f"cropped {size[0]}x{size[1]} to {width}x{height}")
    return image, "; ".join(steps)


def _resized(image: Image, size: tuple[int, int], ratio: float) -> Image:
    resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA if ratio < 1 else cv2.INTER_CUBIC)
    return np.asarray(resized, np.uint8)
