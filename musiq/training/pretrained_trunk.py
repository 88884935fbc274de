"""Where the ResNet-50 trunk starts from: torchvision's ImageNet weights, from a file, a part of them, or downloaded."""

from __future__ import annotations

import pickle
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

from musiq.errors import MusiqError
from musiq.model.network import Musiq, ResNetTrunk

OTHERWISE = "or --trunk-weights none to start from random weights."


@dataclass(frozen=True)
class Loaded:
    """What came: the `whole_norms` are the batch norms whose statistics and whose convolution's weights both did, so that
    the one describe the other; `missing` is a line about what did not, "" where all did."""

    whole_norms: list[str] = field(default_factory=list)
    missing: str = ""


def load_trunk(model: Musiq, choice: str) -> Loaded:
    """Fill `model.trunk.net` from `choice`: "none" (left random), "download" (torchvision's ImageNet weights, V1), or the
    path of such a file: resnet50-0676ba61.pth (also the same as resnet50.pth), or an .npz of arrays with the same names,
    which may be a part of them: the others stay random.

    Raises MusiqError for a trunk that is no ResNet-50, a file that cannot be read, tensors of another shape, tensors that
    are missing from a .pth, and a download without a network.
    """
    if choice == "none":
        return Loaded()
    if not isinstance(model.trunk, ResNetTrunk):
        raise MusiqError(
            f"--trunk-weights {choice} is for the resnet50 presets; {model.spec.preset} has its own trunk. Leave it out."
        )
    net = model.trunk.net
    state = _download() if choice == "download" else _read(Path(choice))
    wanted = net.state_dict()
    # Counters that older files lack and nothing reads: the momentum is fixed.
    needed = [name for name in wanted if not name.endswith("num_batches_tracked")]
    absent = [name for name in needed if name not in state]
    if len(absent) == len(needed) or (absent and not choice.endswith(".npz")):
        raise MusiqError(
            f"{choice} lacks {len(absent)} of the {len(needed)} tensors of torchvision's ResNet-50, {absent[0]} "
            f"first. Give resnet50-0676ba61.pth, {OTHERWISE}"
        )
    _check_shapes(choice, state, {name: wanted[name] for name in needed if name in state})
    # Classifier weights (fc) are left behind: the model has a head of its own.
    net.load_state_dict({name: state.get(name, value) for name, value in wanted.items()})
    missing = f"{choice} has {len(needed) - len(absent)} of the {len(needed)} tensors of torchvision's ResNet-50; "
    random = {name.rpartition(".")[0] for name in absent}
    whole = [name for name in all_norms(model) if not {_trunk_name(name), _before(_trunk_name(name))} & random]
    return Loaded(whole, f"{missing}random from the start: {', '.join(_stages(absent))}." if absent else "")


def all_norms(model: Musiq) -> list[str]:
    """The names of all batch norms of a model."""
    return [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]


def _trunk_name(name: str) -> str:
    return name.removeprefix("trunk.net.")


def _before(norm: str) -> str:
    """The convolution that a batch norm of torchvision's ResNet-50 comes after: conv1 for bn1, downsample.0 for .1."""
    return norm[:-1] + "0" if norm.endswith("downsample.1") else norm.replace("bn", "conv")


def _stages(names: list[str]) -> list[str]:
    """How many tensors of each stage: "10 of layer3", ..."""
    counts = Counter(name.split(".")[0] for name in names)
    return [f"{count} of {stage}" for stage, count in counts.items()]


def _check_shapes(choice: str, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    for name, value in wanted.items():
        if state[name].shape != value.shape:
            raise MusiqError(
                f"{choice}: {name} has the shape {tuple(state[name].shape)}; torchvision's ResNet-50 has "
                f"{tuple(value.shape)}. Give resnet50-0676ba61.pth, {OTHERWISE}"
            )


def _download() -> Mapping[str, Tensor]:
    try:
        return dict(torchvision.models.ResNet50_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError, ValueError) as problem:  # no network, a wrong hash, a proxy's page
        raise MusiqError(
            f"torchvision's ResNet-50 weights cannot be downloaded ({problem}). Fetch "
            "https://download.pytorch.org/models/resnet50-0676ba61.pth where there is a network and give its path as "
            f"--trunk-weights FILE, {OTHERWISE}"
        ) from problem


def _read(path: Path) -> Mapping[str, Tensor]:
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as problem:
        raise MusiqError(
            f"Cannot read {path}: {problem.strerror}. Give resnet50-0676ba61.pth, {OTHERWISE}"
        ) from problem
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        TypeError,
        zipfile.BadZipFile,
    ) as problem:
        raise MusiqError(f"{path} is no file of plain tensors. Give resnet50-0676ba61.pth, {OTHERWISE}") from problem
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise MusiqError(f"{path} is no dict of tensors. Give resnet50-0676ba61.pth, {OTHERWISE}")
    return content
