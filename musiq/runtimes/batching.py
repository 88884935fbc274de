"""Turns any batch of images into the calls that an artifact allows: its inputs, its batch sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from musiq.artifact import Record
from musiq.errors import MusiqError
from musiq.patches import cut, position_rows, scale_rows
from musiq.pyramid import scales
from musiq.runtimes.base import Images, Scores, check_images
from musiq.spec import PATCH, Spec

KEYS = SPEC, INPUTS, BATCH, PRECISION, TOKENS = (
    "musiq.spec",
    "musiq.inputs",
    "musiq.batch",
    "musiq.precision",
    "musiq.tokens",
)
"""Keys of the facts that every artifact whose format has room for them carries inside."""

PATCHES, PADDED_PATCHES = "patches", "padded-patches"
"""Inputs of an artifact that takes images cut into patches (`musiq.patches`), and their lengths where it takes several of
different lengths in a call."""

OUTPUTS = ("score", "shares")

USUAL_BATCH = 8
"""Images in a call, where nobody says how many."""
PIXELS_PER_THREAD = 2**18
"""Pixels of a call's images that keep one CPU thread busy: more at once gain nothing and take memory."""

DTYPES = {"image": np.uint8, **dict.fromkeys(("positions", "scales", "lengths"), np.int32)}
"""Of inputs that are not float32."""

NOTHING: Images = np.empty((0, 1, 1, 3), np.uint8)

Call = Callable[[list[NDArray[Any]]], Sequence[NDArray[Any]]]
"""One call of a backend: an array for each input, (N, ...), to one for each output."""


@dataclass(frozen=True)
class Feed:
    """What an artifact takes, and how any batch of images is given to it.

    Attributes:
        spec: Of its model.
        inputs: "image" (uint8), "pyramid" (the normalised scales, each an input of its own), or patches: PATCHES or
            PADDED_PATCHES.
        smallest: Images in a call at least.
        largest: Images in a call at most; 0 for no limit.
        tokens: Fewest and most tokens of an image (`Spec.tokens`) that is cut into patches, the most 0 for no limit. Where
            they are equal, all images are padded to them.
    """

    spec: Spec
    inputs: str = "image"
    smallest: int = 1
    largest: int = 0
    tokens: tuple[int, int] = (1, 0)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], path: object) -> Feed:
        """From the facts inside an artifact. Raises MusiqError for a file without them."""
        if SPEC not in metadata:
            raise MusiqError(
                f"{path} was not made by musiq-export: it has no Spec inside. Export it from its checkpoint."
            )
        smallest, largest = _limits(metadata.get(BATCH, "1..0"))
        tokens = _limits(metadata.get(TOKENS, "1..0"))
        return cls(Spec.from_json(metadata[SPEC]), metadata.get(INPUTS, "image"), smallest, largest, tokens)

    @classmethod
    def from_record(cls, record: Record) -> Feed:
        """From the record of an artifact, as an engine has no facts inside."""
        return cls(record.spec, record.inputs, *record.batch, record.details.tokens or (1, 0))

    def shapes(self, tokens: int = 0) -> dict[str, tuple[int, ...]]:
        """Each input's shape without its batch, in the order of the arrays; -1 for what differs from call to call, unless
        patches are asked for so many `tokens`."""
        if self.takes_patches:
            count = tokens - 1 if tokens else -1 if self.has_open_sizes else self.tokens[1] - 1
            shapes: dict[str, tuple[int, ...]] = {
                "patches": (count, 3, PATCH, PATCH),
                "positions": (count,),
                "scales": (count,),
            }
            return {**shapes, "lengths": ()} if self.inputs == PADDED_PATCHES else shapes
        if self.spec.any_size:
            return {"image": (-1, -1, 3)}
        if self.inputs == "pyramid":
            return {scale.name: (3, *self.spec.kept_size(scale)) for scale in self.spec.scales}
        return {"image": (*self.spec.fixed_size, 3)}

    def zeros(self, batch: int) -> list[NDArray[Any]]:
        """An array for each input, of those shapes: no -1 may be among them."""
        return [np.zeros((batch, *shape), DTYPES.get(name, np.float32)) for name, shape in self.shapes().items()]

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

    @property
    def takes_patches(self) -> bool:
        """Whether images are cut into patches before they are given to it."""
        return self.inputs in (PATCHES, PADDED_PATCHES)

    @property
    def has_open_sizes(self) -> bool:
        """Whether shapes differ from call to call by more than their batch."""
        return self.spec.any_size and self.tokens[0] != self.tokens[1]

    def metadata(self, precision: str) -> dict[str, str]:
        """The facts to put inside an artifact."""
        batch, tokens = (f"{least}..{most}" for least, most in ((self.smallest, self.largest), self.tokens))
        facts = {SPEC: self.spec.to_json(), INPUTS: self.inputs, BATCH: batch, PRECISION: precision}
        return {**facts, TOKENS: tokens} if self.takes_patches else facts

    @property
    def call_shares(self) -> str:
        """What the images of one call must have in common, see `Runtime.call_shares`."""
        return {PATCHES: "tokens", PADDED_PATCHES: "nothing"}.get(self.inputs, "size")

    def run(self, images: Images | Sequence[Images], call: Call) -> dict[str, Scores]:
        """Call `call` with input arrays as often as needed: large batches are split, small ones padded and trimmed."""
        if not isinstance(images, np.ndarray) and self.call_shares == "size":
            images = _stacked(images)
        each = [images] if isinstance(images, np.ndarray) else [image[None] for image in images] or [NOTHING]
        for batch in each:
            check_images(batch, self.spec)
        step = self.largest or len(images)
        parts = [self._once(images[i : i + step], call) for i in range(0, len(images), step)]
        joined = [np.concatenate(outputs) if len(outputs) > 1 else outputs[0] for outputs in zip(*parts, strict=True)]
        return dict(zip(OUTPUTS, joined, strict=False))

    def _once(self, images: Images | Sequence[Images], call: Call) -> list[Scores]:
        n, arrays = len(images), self._arrays(images)
        if n < self.smallest:  # the last image again
            arrays = [np.concatenate([array, np.repeat(array[-1:], self.smallest - n, axis=0)]) for array in arrays]
        return [np.asarray(output[:n], np.float32) for output in call(arrays)]

    def _arrays(self, images: Images | Sequence[Images]) -> list[NDArray[Any]]:
        if self.takes_patches:
            return self._patches(images)
        assert isinstance(images, np.ndarray)
        return list(scales(images, self.spec)) if self.inputs == "pyramid" else [images]

    def _patches(self, images: Images | Sequence[Images]) -> list[NDArray[Any]]:
        """Patches (B, N, 3, 32, 32), their rows in the position and scale embeddings (B, N), and where they are padded
        with zeros the number of each image's own, (B,)."""
        specs = [self.spec.at(*image.shape[:2]) for image in images]
        counts = [spec.tokens - 1 for spec in specs]
        for image in images:
            if reason := self.why_not(*image.shape[:2]):
                raise MusiqError(reason)
        if self.inputs == PATCHES and len(set(counts)) > 1:
            raise MusiqError(
                f"The images of one call have {min(counts) + 1} to {max(counts) + 1} tokens; this model takes images of as "
                "many tokens in a call. Give each number a call of its own, or export with --padded."
            )
        shape = len(images), max(*counts, self.tokens[0] - 1)
        patches = np.zeros((*shape, 3, PATCH, PATCH), np.float32)
        positions, rows = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        for i, (image, spec, count) in enumerate(zip(images, specs, counts, strict=True)):
            cut(image, spec, patches[i, :count])
            positions[i, :count], rows[i, :count] = position_rows(spec), scale_rows(spec)
        arrays = [patches, positions, rows]
        return arrays if self.inputs == PATCHES else [*arrays, np.array(counts, np.int32)]

    def why_not(self, height: int, width: int) -> str:
        """Why an artifact of patches is not for images of a size, and what to do; empty for those that it is for."""
        fewest, most = self.tokens
        tokens = self.spec.at(height, width).tokens if self.takes_patches else 0
        if not self.takes_patches or (
            (fewest <= tokens or self.inputs == PADDED_PATCHES) and (tokens <= most or not most)
        ):
            return ""
        limits, wanted = f"{fewest} to {most}", f"{min(fewest, tokens)}..{max(most, tokens)}"
        if not most:
            limits, wanted = f"{fewest} or more", f"{tokens}.."
        elif fewest == most:
            limits, wanted = f"{most} at most", str(tokens)
        smaller = ", or make the image smaller (--resize longer=N)" if tokens > fewest else ""
        return (
            f"An image of {width}x{height} has {tokens} tokens; this file was exported for {limits}. Export it again with "
            f"--tokens {wanted}{smaller}."
        )


def _limits(text: str) -> tuple[int, int]:
    least, most = text.split("..")
    return int(least), int(most)


def _stacked(images: Sequence[Images]) -> Images:
    """Images (H, W, 3) of one size as a batch. Raises MusiqError where their sizes differ."""
    sizes = {image.shape for image in images}
    if len(sizes) > 1:
        raise MusiqError(
            f"The images of one call have {len(sizes)} sizes; this model takes images of one size in a call. Give each "
            "size a call of its own."
        )
    return np.stack(images) if images else NOTHING
