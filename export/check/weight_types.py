"""What precision is really inside a finished artifact: its weights are counted, not believed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import prod

from musiq.errors import MusiqError

WANTED = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
LEAST_SHARE = 0.5
"""The pyramid's matrices and the layer norms stay in fp32; in every preset the other weights outnumber them."""


def count(tensors: Iterable[tuple[str, Iterable[int]]]) -> dict[str, int]:
    """Elements by type, of floating-point tensors given as (type, shape)."""
    elements: Counter[str] = Counter()
    for kind, shape in tensors:
        if kind in WANTED.values():
            elements[kind] += prod(shape)
    return dict(elements)


def check(elements: dict[str, int], precision: str) -> dict[str, int]:
    """Give `elements` back. Raises MusiqError if an artifact of `precision` holds mostly other weights."""
    wanted, total = WANTED[precision], sum(elements.values())
    if elements.get(wanted, 0) < LEAST_SHARE * total:
        raise MusiqError(
            f"The artifact was to be {precision}, but of {total:,} weights only {elements.get(wanted, 0):,} are: "
            f"{elements}. Nothing was kept; please report this with the versions you use."
        )
    return elements
