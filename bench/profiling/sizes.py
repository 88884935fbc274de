"""Sizes of images as the laboratory's options give them: WIDTHxHEIGHT in words, (height, width) in the code."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from musiq.errors import MusiqError
from musiq.spec import USUAL_SIZE, Spec

Size = tuple[int, int]
"""(height, width) in pixels, as shapes have them."""

F = TypeVar("F", bound=Callable[..., Any])

METAVAR = "WIDTHxHEIGHT"


def parse_size(text: str) -> Size:
    """(height, width) of "512x288", width first. Raises MusiqError for what is no size."""
    sides = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if sides is None or max(map(int, sides.groups())) > 65535:
        raise MusiqError(f"{text!r} is no size; give width and height in pixels, such as 512x288.")
    return int(sides[2]), int(sides[1])


def size_option(what: str) -> Callable[[F], F]:
    """The option `--size` of a command that measures at one size, which a model for any size is asked for."""
    return click.option(
        "--size", type=parse_size, metavar=METAVAR, help=f"{what}, for a model that takes any size. [1024x768]"
    )


def size_name(size: Size) -> str:
    """ "512x288"."""
    return f"{size[1]}x{size[0]}"


def size_for(spec: Spec, asked: Size | None) -> Size:
    """The size to measure a model at: its own where it has one, else what was asked for, else the usual one.

    Raises:
        MusiqError: It has one, and another was asked for.
    """
    if spec.any_size:
        return asked or USUAL_SIZE
    if asked and asked != spec.fixed_size:
        raise MusiqError(
            f"--size {size_name(asked)} is not what this model takes, {spec.size_name}; leave it out, or give a model "
            "for any size."
        )
    return spec.fixed_size
