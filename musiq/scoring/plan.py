"""The plan for an image: which model sees it, at what size, what it may share a call with, and what it costs there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from musiq.errors import ImageError, MusiqError
from musiq.images.fit import LONGEST_SIDE, Resize
from musiq.runtimes.base import Runtime
from musiq.scoring.model_choice import nearest
from musiq.spec import PATCH, USUAL_SIZE, Spec

MAX_TOKENS = 12_288
"""Tokens of the largest image scored by default: 4000x3000 pixels have 11,901 in the paper's model."""

PARTS = 16
"""In how many parts runtimes compute the attention of a large image; for estimates of memory."""

COPIES = 8
"""How many float32 copies of an image's pixels live at once in a model; for estimates of memory."""


@dataclass(frozen=True)
class Plan:
    """What is done with one image.

    Attributes:
        model: The index of the model that scores it.
        height: Pixels that the model sees.
        width: Pixels that the model sees.
        shares: What it has in common with the images that may be in its call, besides the model.
        load: Its part of a call's budget: 1 for a model of one size, for any size its tokens.
    """

    model: int
    height: int
    width: int
    shares: tuple[int, ...] = ()
    load: int = 1


def policy_for(resize: str | None, spec: Spec, name: str) -> Resize:
    """The resize policy in force.

    Args:
        resize: As it was asked for; None for the model's own.
        spec: Of the model.
        name: The model's, for messages.

    Raises:
        MusiqError: There is no such policy, or not for this model.
    """
    if not spec.any_size:
        if resize is not None and Resize.parse(resize).kind != "cover":
            raise MusiqError(
                f"--resize {resize} is for models of any size; {name} is for images of {spec.size_name}, which all are "
                "made to cover. Leave it out, or export the checkpoint with musiq-export --size any."
            )
        return Resize("cover")
    policy = Resize.parse(resize or spec.resize or "native")
    if policy.kind == "cover":
        raise MusiqError(
            f"--resize cover is for models of one size; {name} takes images of any. Give native, longer=N or shorter=N."
        )
    return policy


class Planner:
    """Plans images for one model of any size, or for one or more models of one size each."""

    def __init__(self, runtimes: Sequence[Runtime], policy: Resize, max_tokens: int) -> None:
        """Plan for opened models.

        Args:
            runtimes: The models.
            policy: What size images get, where the model takes any.
            max_tokens: Tokens of an image at most, where the model takes any size.
        """
        self._specs = [runtime.spec for runtime in runtimes]
        self.any_size = self._specs[0].any_size
        self._call_shares = runtimes[0].call_shares if self.any_size else ""
        self._policy, self._max_tokens = policy, max_tokens
        self._tokens = lru_cache(4096)(self._counted)

    def _counted(self, height: int, width: int) -> int:
        return self._specs[0].at(height, width).tokens

    @property
    def usual_load(self) -> int:
        """Of one image, of USUAL_SIZE where they may have any."""
        return self._tokens(*USUAL_SIZE) if self.any_size else 1

    def budget(self, images: int) -> int:
        """The load of a call of so many images of the usual size; 0 for one image a call, whatever its size."""
        return images * self.usual_load if images > 1 else 0

    def __call__(self, height: int, width: int) -> Plan:
        """The plan for an image of that height and width. Raises ImageError for one that is too large for the model."""
        if not self.any_size:
            model = nearest(self._specs, height, width)
            return Plan(model, *self._specs[model].fixed_size)
        seen = self._policy.size(height, width)
        if max(seen) > LONGEST_SIDE:
            raise ImageError(
                f"The model would see {seen[1]}x{seen[0]} pixels; a side has {LONGEST_SIDE:,} at most. "
                f"{self._remedy(height, width)}"
            )
        tokens = self._tokens(*seen)
        if tokens > self._max_tokens:
            raise ImageError(
                f"The model would see {seen[1]}x{seen[0]} pixels, which are {tokens:,} tokens and take about "
                f"{memory_gb(self._specs[0], tokens):.2g} GB; at most {self._max_tokens:,} tokens are scored. "
                f"{self._remedy(height, width)}"
            )
        return Plan(0, *seen, self._shared(*seen, tokens), tokens)

    def _shared(self, height: int, width: int, tokens: int) -> tuple[int, ...]:
        if self._call_shares == "tokens":
            return (tokens,)
        if self._call_shares == "nothing":
            # Shorter images of a call are padded to its longest: by an eighth at most.
            step = max(PATCH, 1 << tokens.bit_length() >> 4)
            return (-(-tokens // step) * step,)
        return height, width

    def _remedy(self, height: int, width: int) -> str:
        length = self._longest(height, width)
        return f"Give --resize longer={length}, or a larger --max-tokens." if length else "Give a larger --max-tokens."

    def _longest(self, height: int, width: int) -> int:
        """Pixels of the longer side that have few enough tokens, 0 for none: a multiple of PATCH where there is one."""
        fits, too_long = 0, min(max(height, width), LONGEST_SIDE) + 1
        while too_long - fits > 1:
            length = (fits + too_long) // 2
            tokens = self._tokens(*Resize("longer", length).size(height, width))
            fits, too_long = (length, too_long) if tokens <= self._max_tokens else (fits, length)
        whole = fits // PATCH * PATCH
        return (
            whole if whole and self._tokens(*Resize("longer", whole).size(height, width)) <= self._max_tokens else fits
        )


def memory_gb(spec: Spec, tokens: int) -> float:
    """About how many GB the model takes for an image of so many tokens, beyond its weights."""
    pixels = COPIES * 3 * PATCH**2 * tokens
    attention = spec.heads * tokens**2 / PARTS
    return 4 * (pixels + attention) / 1e9
