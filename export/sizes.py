"""The size that each artifact is for: what was asked, else what the model is meant for and the format can."""

from __future__ import annotations

import re
from dataclasses import dataclass

from musiq.errors import MusiqError
from musiq.spec import FIXED_SIDES, USUAL_SIZE, Spec

from .request import EVERY_PATCHES, Format

MEANT_FOR_ANY = ("musiq", "musiq-pyiqa", "lite")
"""Presets that score every image at its own size."""


@dataclass(frozen=True)
class Size:
    """What --size, --height and --width ask for: any size, sides in pixels, one side alone, or nothing."""

    height: int | None = None
    width: int | None = None
    any: bool = False

    @property
    def is_given(self) -> bool:
        return self.any or self.height is not None or self.width is not None

    @classmethod
    def parse(cls, text: str | None, height: int | None = None, width: int | None = None) -> Size:
        """From the options. Raises MusiqError for what is no size, and for a size given twice."""
        if text is None:
            return cls(height, width)
        if height is not None or width is not None:
            raise MusiqError("--size says both sides already. Leave out --height and --width, or --size.")
        if text == "any":
            return cls(any=True)
        found, (least, most) = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", text), FIXED_SIDES
        sides = [int(side) for side in found.groups()] if found else []
        if not sides or not all(least <= side <= most for side in sides):
            raise MusiqError(
                f"--size {text!r} is no size; expected any, or WIDTHxHEIGHT such as 1024x768, of {least} to {most} pixels "
                "a side."
            )
        return cls(sides[1], sides[0])


def spec_for(format: Format, inputs: str, asked: Size, spec: Spec) -> Spec:
    """The Spec of one artifact.

    Args:
        format: Of the artifact.
        inputs: Of INPUTS.
        asked: What the user says of the size.
        spec: Of the checkpoint, at the size that was asked for.
    """
    if asked.is_given:
        return spec
    if inputs in EVERY_PATCHES:
        return spec.at_any_size()
    meant_for_any = spec.any_size or spec.preset in MEANT_FOR_ANY
    if meant_for_any and inputs in format.any_size and not format.fixed_unless_asked:
        return spec.at_any_size()
    return spec.at(*USUAL_SIZE) if spec.any_size else spec


def size_line(spec: Spec, gflop: float, simplified: float) -> str:
    """What is exported, for a person: preset, size, tokens, and the arithmetic of the model as trained and simplified."""
    work = f"{gflop:.1f} GFLOP, simplified {simplified:.1f}"
    if not spec.any_size:
        return f"{spec.preset}, {spec.size_name}, {spec.tokens} tokens: {work}"
    usual = spec.at(*USUAL_SIZE)
    return f"{spec.preset}, any size ({usual.size_name}: {usual.tokens} tokens, {work})"
