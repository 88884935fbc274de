"""Turns any batch of images into the calls that an artifact allows: its inputs, its batch sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from musiq.errors import MusiqError
from musiq.pyramid import scales
from musiq.runtimes.base import Images, Scores, check_images
from musiq.spec import Spec

KEYS = SPEC, INPUTS, BATCH, PRECISION = "musiq.spec", "musiq.inputs", "musiq.batch", "musiq.precision"
"""Keys of the facts that every artifact whose format has room for them carries inside."""

OUTPUTS = ("score", "shares")

USUAL_BATCH = 8
"""Images in a call, where nobody says how many."""
PIXELS_PER_THREAD = 2**18
"""Pixels of a call's images that keep one CPU thread busy: more at once gain nothing and take memory."""

Call = Callable[[list[NDArray[Any]]], Sequence[NDArray[Any]]]
"""One call of a backend: an array for each input, (N, ...), to one for each output."""


@dataclass(frozen=True)
class Feed:
    """What an artifact takes, and how any batch of images is given to it.

    Attributes:
        spec: Of its model.
        inputs: "image" (uint8) or "pyramid" (the normalised scales, each an input of its own).
        smallest: Images in a call at least.
        largest: Images in a call at most; 0 for no limit.
    """

    spec: Spec
    inputs: str = "image"
    smallest: int = 1
    largest: int = 0

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], path: object) -> Feed:
        """From the facts inside an artifact. Raises MusiqError for a file without them."""
        if SPEC not in metadata:
            raise MusiqError(
                f"{path} was not made by musiq-export: it has no Spec inside. Export it from its checkpoint."
            )
        smallest, largest = metadata.get(BATCH, "1..0").split("..")
        return cls(Spec.from_json(metadata[SPEC]), metadata.get(INPUTS, "image"), int(smallest), int(largest))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Each input's shape without its batch, in the order of the arrays."""
        image = (*self.spec.fixed_size, 3)
        if self.inputs != "pyramid":
            return {"image": image}
        return {scale.name: (3, *self.spec.kept_size(scale)) for scale in self.spec.scales}

    def default_batch(self, threads: int | None, calls: int = 1) -> int:
        """Images in a call that make sense, where nobody says how many: on a CPU of so many threads, which divide
        themselves among so many calls at once; None for a GPU."""
        if threads is None:
            enough = USUAL_BATCH
        elif self.spec.any_size:
            enough = 1  # images of one size are rare, and one of a usual size keeps a CPU busy
        else:
            enough = min(USUAL_BATCH, threads * PIXELS_PER_THREAD // prod(self.spec.fixed_size))
        return max(self.smallest, min(enough // calls, self.largest or USUAL_BATCH))

    @property
    def is_static(self) -> bool:
        """Whether it takes one batch size alone."""
        return self.smallest == self.largest

    def metadata(self, precision: str) -> dict[str, str]:
        """The facts to put inside an artifact."""
        batch = f"{self.smallest}..{self.largest}"
        return {SPEC: self.spec.to_json(), INPUTS: self.inputs, BATCH: batch, PRECISION: precision}

    @property
    def call_shares(self) -> str:
        """What the images of one call must have in common, see `Runtime.call_shares`."""
        return "size"

    def run(self, images: Images | Sequence[Images], call: Call) -> dict[str, Scores]:
        """Call `call` with input arrays as often as needed: large batches are split, small ones padded and trimmed."""
        if not isinstance(images, np.ndarray):
            images = _stacked(images)
        check_images(images, self.spec)
        step = self.largest or len(images)
        parts = [self._once(images[i : i + step], call) for i in range(0, len(images), step)]
        joined = [np.concatenate(outputs) if len(outputs) > 1 else outputs[0] for outputs in zip(*parts, strict=True)]
        return dict(zip(OUTPUTS, joined, strict=False))

    def _once(self, images: Images, call: Call) -> list[Scores]:
        n = len(images)
        if n < self.smallest:
            images = np.concatenate([images, np.repeat(images[-1:], self.smallest - n, axis=0)])
        arrays: list[NDArray[Any]] = list(scales(images, self.spec)) if self.inputs == "pyramid" else [images]
        return [np.asarray(output[:n], np.float32) for output in call(arrays)]


def _stacked(images: Sequence[Images]) -> Images:
    """Images (H, W, 3) of one size as a batch. Raises MusiqError where their sizes differ."""
    sizes = {image.shape for image in images}
    if len(sizes) > 1:
        raise MusiqError(
            f"The images of one call have {len(sizes)} sizes; this model takes images of one size in a call. Give each "
            "size a call of its own."
        )
    return np.stack(images) if images else np.empty((0, 1, 1, 3), np.uint8)
