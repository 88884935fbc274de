"""Finds a model's tensors in what training frameworks save: under which key they lie, and behind which prefix."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from musiq.errors import MusiqError

CONTAINERS = ("params_ema", "ema", "params", "state_dict", "model_state_dict", "model")
"""Keys under which a state dict lies: BasicSR's and pyiqa's, Lightning's, plain scripts'. Where there are several, the
running average goes first, which is what those frameworks score and keep."""

PREFIXES = ("module.", "_orig_mod.", "model.")
"""What DataParallel, torch.compile and Lightning's modules put before every name."""

COUNTERS = ("n_averaged",)
"""What torch's AveragedModel has beside the weights."""


def find_state(content: Mapping[str, object]) -> Mapping[str, object]:
    """The innermost state dict of a file's content, `content` itself where it lies under no key of CONTAINERS."""
    inside = next((found for key in CONTAINERS if isinstance(found := content.get(key), Mapping)), None)
    return content if inside is None else find_state(inside)


def tensors_of(state: Mapping[str, object]) -> dict[str, Tensor]:
    """The tensors of a state dict without the PREFIXES that all of their names have."""
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor) and name not in COUNTERS}
    return without_prefixes(tensors)


def without_prefixes(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same without the PREFIXES, of any number and order, that all of the names have.

    That of torch.compile is also left out within a name: it stands wherever a part of a model was compiled.
    """
    found = {name.replace("_orig_mod.", ""): value for name, value in tensors.items()}
    while prefix := next((each for each in PREFIXES if found and all(name.startswith(each) for name in found)), ""):
        found = {name.removeprefix(prefix): value for name, value in found.items()}
    return found


def left_over(names: Iterable[str], starts: Iterable[str]) -> str:
    """What stands before the names of a layout, of which each has one of `starts` among its first; "" for nothing.

    It is what a wrapper that is not known has put there, or a known one before some of the names alone.
    """
    return next((name[:at] for name in names for start in starts if (at := name.find(f".{start}") + 1)), "")


def check_weights(tensors: Mapping[str, Tensor]) -> None:
    """Raise MusiqError, naming them, where tensors hold NaN or infinity, or are no floats though they do not count."""
    check_floats(tensors)
    # Without the cast, torch cannot say of 8-bit floats whether they are finite.
    wrong = [
        name for name, value in tensors.items() if value.is_floating_point() and not torch.isfinite(value.float()).all()
    ]
    if not wrong:
        return
    first = tensors[wrong[0]].float()
    nan, infinite = int(torch.isnan(first).sum()), int(torch.isinf(first).sum())
    what = " and ".join(f"{count} {kind}" for count, kind in ((nan, "NaN"), (infinite, "infinite")) if count)
    more = f", as do {len(wrong) - 1} more tensors" if len(wrong) > 1 else ""
    raise MusiqError(
        f"{wrong[0]} holds {what} of {first.numel()} values{more}: its training had failed when it was saved, or it is "
        "damaged. Give an earlier checkpoint, or another copy."
    )


def check_floats(tensors: Mapping[str, Tensor]) -> None:
    """Raise MusiqError, naming them, where tensors other than batch norms' counters are no floats."""
    wrong = [
        name
        for name, value in tensors.items()
        if not value.is_floating_point() and name.rpartition(".")[2] != "num_batches_tracked"
    ]
    if wrong:
        kind = str(tensors[wrong[0]].dtype).removeprefix("torch.")
        more = f", as are {len(wrong) - 1} more tensors" if len(wrong) > 1 else ""
        raise MusiqError(
            f"{wrong[0]} is of {kind}{more}; weights must be floats. Give the checkpoint as it was before it was quantised."
        )
