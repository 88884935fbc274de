"""Saves and loads checkpoints: ours (safetensors with the Spec inside), and three foreign layouts, which are only read.

A file is recognised by its content, never by its name, and nothing in it is ever executed (`musiq.model.tensor_files`).
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from musiq.errors import MusiqError
from musiq.files import atomic_write, check_utf8, special_kind
from musiq.model.foreign_layouts import (
    BACKBONE,
    LAYOUTS,
    TRANSFORMER,
    check_names,
    convert,
    normalise_flax,
    stack_scales,
)
from musiq.model.network import Musiq
from musiq.model.state_dicts import PREFIXES, check_weights, find_state, left_over, tensors_of, without_prefixes
from musiq.model.tensor_files import read_npz, read_torch
from musiq.spec import Spec

SPEC_KEY, NOTES_KEY = "musiq.spec", "musiq.notes"
OUR_START = "embed.class_token"
"""A tensor of ours; no foreign layout has a name that begins like it."""


def save(model: Musiq, path: Path, notes: Mapping[str, object] | None = None) -> None:
    """Write a checkpoint: safetensors with the model's Spec in its metadata. Equal models make equal files.

    Args:
        model: Its weights are written as they are, whatever their device.
        path: The file; it is written whole or not at all.
        notes: What else to keep in the metadata: anything that JSON can hold, read back by `notes`.

    Raises:
        MusiqError: The folder cannot be written, or the disk is full.
    """
    from safetensors.torch import save as serialise

    metadata = {"format": "pt", SPEC_KEY: model.spec.to_json(), NOTES_KEY: json.dumps(dict(notes or {}))}
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    with atomic_write(path) as part:
        # Its own save_file makes files that others may not read, and calls a full disk by an error of its own.
        part.write_bytes(_in_order(serialise(tensors, metadata)))


def _in_order(file: bytes) -> bytes:
    """A safetensors file with its metadata sorted: as it is written, equal models have another hash each time."""
    end = 8 + int.from_bytes(file[:8], "little")
    header = json.loads(file[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight
    return len(text).to_bytes(8, "little") + text + file[end:]


def load(path: Path | str, height: int | None = None, width: int | None = None, *, any_size: bool = False) -> Musiq:
    """The model of a checkpoint of any known layout, in fp32, on the CPU, in eval mode.

    Args:
        path: A checkpoint of ours, of the published ResNet-50 reimplementation or of pyiqa (torch files), or the original
            Flax weights (.npz). State dicts of torch files may lie under the keys, and any names behind the prefixes,
            that `musiq.model.state_dicts` knows.
        height: Pixels of the images' height; None for what the checkpoint is for: ours for what they were trained for, the
            paper's weights and pyiqa's for images of any size, the ResNet-50 reimplementation's for 1024x768. Where only
            one side is given to a checkpoint for any size, the other is that of 1024x768.
        width: Pixels of the images' width; None alike.
        any_size: For images of any size, whatever the checkpoint was trained for; `height` and `width` say nothing then.

    Raises:
        MusiqError: The file is missing, broken or of no known layout, or its tensors do not fit its layout, hold NaN,
            or are no floats; or the model has no form for images of any size.
    """
    path = Path(path)
    tensors, spec = _read(path)
    try:
        return _build(tensors, spec, lambda known: known.at_any_size() if any_size else known.at(height, width))
    except MusiqError as problem:
        raise MusiqError(f"{path}: {problem}") from problem


def notes(path: Path) -> dict[str, Any]:
    """What `save` was given as `notes`; nothing for a checkpoint without any.

    Args:
        path: A checkpoint of ours.
    """
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return dict(json.loads((file.metadata() or {}).get(NOTES_KEY, "{}")))


def _build(tensors: dict[str, Tensor], spec: Spec | None, sized: Callable[[Spec], Spec]) -> Musiq:
    if spec is not None:
        if left := left_over(tensors, (OUR_START,)):
            raise MusiqError(_say_left_over(left, "this project's", tensors))
        model = Musiq(sized(spec))
        check_names({name: tuple(value.shape) for name, value in model.state_dict().items()}, tensors, "its own Spec")
        check_weights(tensors)
        model.load_state_dict(tensors)
        return model.eval()
    for layout in LAYOUTS:
        if layout.owns(tensors):
            spec = sized(layout.spec(tensors))
            model = Musiq(spec)
            converted = convert(layout, tensors, model, spec)
            check_weights(tensors)
            model.load_state_dict(converted)
            return model.eval()
    raise _unknown(tensors)


def _unknown(tensors: Mapping[str, Tensor]) -> MusiqError:
    """Why tensors without a Spec are of no layout that can be loaded."""
    if any(f".{name}".endswith(f".{OUR_START}") for name in tensors):
        return MusiqError(
            "The tensors are named as this project's own, but the file has no Spec, without which their score cannot be "
            "read. Give a .safetensors that train.py wrote, such as best.safetensors in the run's folder."
        )
    for layout in LAYOUTS:
        if left := left_over(tensors, layout.starts[:1]):
            return MusiqError(_say_left_over(left, f"the {layout.name} layout's", tensors))
    return MusiqError(
        f"The file holds tensors of no known MUSIQ layout (first: {', '.join(list(tensors)[:3]) or 'none at all'}). "
        "Known are this project's safetensors, the published ResNet-50 reimplementation's .pth, pyiqa's .pth, "
        "and the original .npz."
    )


def _say_left_over(left: str, whose: str, names: Mapping[str, Tensor]) -> str:
    """That `left` stands before names of a layout, and why it was not taken off."""
    other = next((name for name in names if not name.startswith(left)), None)
    why = f"not before all of them ({other})" if other else f"no prefix that is known ({', '.join(PREFIXES)})"
    return f"Before {whose} names stands {left!r}, {why}. Save the model's tensors alone, without it."


def _read(path: Path) -> tuple[dict[str, Tensor], Spec | None]:
    """The tensors of a file under the names that its layout gives them, and the Spec if the file is ours."""
    if kind := special_kind(path):  # opening a FIFO would wait for ever
        raise MusiqError(f"Cannot read the checkpoint {path}: it is {kind}. Give the path of a checkpoint file.")
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as problem:
        raise MusiqError(
            f"Cannot read the checkpoint {path}: {problem.strerror}. Give the path of a checkpoint file."
        ) from problem
    if not head:
        raise MusiqError(f"{path} is empty. Give a complete checkpoint file.")
    if head[8:] == b"{":
        return _safetensors(path)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith(".npy") for name in archive.namelist()):
                return _npz_tensors(path), None
        return _torch_tensors(path), None
    if head[:1] == b"\x80":  # a pickle: torch's format before 1.6
        return _torch_tensors(path), None
    raise MusiqError(
        f"{path} is no checkpoint: neither safetensors, nor a torch file, nor an .npz; it may be cut short."
    )


def _safetensors(path: Path) -> tuple[dict[str, Tensor], Spec | None]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = without_prefixes({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118, it is no dict
    except SafetensorError as problem:
        check_utf8(path)
        raise MusiqError(f"{path} is broken ({problem}). Copy or train it again.") from problem
    return tensors, Spec.from_json(metadata[SPEC_KEY]) if SPEC_KEY in metadata else None


def _npz_tensors(path: Path) -> dict[str, Tensor]:
    arrays = {name: array for name, array in read_npz(path).items() if array.dtype.kind == "f"}
    tensors = {name: torch.from_numpy(array.astype(np.float32)) for name, array in arrays.items()}
    return normalise_flax(tensors) or tensors


def _torch_tensors(path: Path) -> dict[str, Tensor]:
    content = read_torch(path)
    if not isinstance(content, Mapping):
        raise MusiqError(f"{path} holds a {type(content).__name__}; expected a dict of tensors.")
    state = find_state(content)
    parts = {
        prefix: tensors_of(find_state(part)) for prefix in (BACKBONE, TRANSFORMER) if (part := _part(state, prefix))
    }
    if not parts:
        return tensors_of(state)
    return stack_scales({prefix + name: value for prefix, part in parts.items() for name, value in part.items()})


def _part(state: Mapping[str, object], prefix: str) -> Mapping[str, object]:
    """One of the classic layout's two state dicts; an empty one where there is none."""
    found = state.get(prefix[:-1])
    return found if isinstance(found, Mapping) else {}
