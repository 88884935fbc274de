"""Loads torchvision's ImageNet weights into the ResNet-50 trunk: from a file, a part of them, or downloaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from musiq.errors import MusiqError
from musiq.model.network import Musiq, ResNetTrunk
from musiq.model.state_dicts import check_weights, find_state, tensors_of
from musiq.model.tensor_files import read_npz, read_torch

ADVICE = "Give resnet50-0676ba61.pth, or --trunk-weights none to start from random weights."
TRUNK = "trunk.net."  # what names of the model have before those of torchvision's ResNet-50


@dataclass(frozen=True)
class Loaded:
    """What was loaded into a trunk.

    Attributes:
        complete_norms: Names of the batch norms whose statistics and whose convolution's weights both came, so that the
            one describe the other.
        missing: A line about what did not come, "" where all did.
    """

    complete_norms: list[str] = field(default_factory=list)
    missing: str = ""


def load_trunk(model: Musiq, choice: str) -> Loaded:
    """Fill the ResNet-50 trunk of a model with pretrained weights.

    Args:
        model: Of a resnet50 preset, unless `choice` is "none".
        choice: "none" (left random), "download" (torchvision's ImageNet weights, V1), or the path of such a file:
            resnet50-0676ba61.pth, or an .npz of arrays with the same names, which may be a part of them: the others stay
            random.

    Returns:
        What came.

    Raises:
        MusiqError: The trunk is no ResNet-50, the file cannot be read, tensors have another shape, hold NaN or are missing
            from a .pth, or there is no network to download from.
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
            f"first. {ADVICE}"
        )
    _check_tensors(choice, state, {name: wanted[name] for name in needed if name in state})
    # Classifier weights (fc) are left behind: the model has a head of its own.
    net.load_state_dict({name: state.get(name, value) for name, value in wanted.items()})
    if not absent:
        return Loaded(all_norms(model))
    have = f"{choice} has {len(needed) - len(absent)} of the {len(needed)} tensors of torchvision's ResNet-50"
    missing = f"{have}; random from the start: {', '.join(_count_by_stage(absent))}."
    return Loaded(_complete_norms(model, absent), missing)


def all_norms(model: Musiq) -> list[str]:
    """The names of all batch norms of a model."""
    return [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]


def _complete_norms(model: Musiq, absent: list[str]) -> list[str]:
    """The batch norms of which no tensor is `absent`, nor the weights of the convolution that they normalise."""
    incomplete = {tensor.rpartition(".")[0] for tensor in absent}  # "layer3.0.conv2.weight" is of layer3.0.conv2

    def complete(norm: str) -> bool:
        return norm not in incomplete and _convolution_before(norm) not in incomplete

    return [name for name in all_norms(model) if complete(name.removeprefix(TRUNK))]


def _convolution_before(norm: str) -> str:
    """The convolution that a batch norm of torchvision's ResNet-50 comes after: conv1 for bn1, downsample.0 for .1."""
    return norm[:-1] + "0" if norm.endswith("downsample.1") else norm.replace("bn", "conv")


def _count_by_stage(names: list[str]) -> list[str]:
    """How many tensors of each stage: "10 of layer3", ..."""
    counts = Counter(name.split(".")[0] for name in names)
    return [f"{count} of {stage}" for stage, count in counts.items()]


def _check_tensors(choice: str, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    for name, value in wanted.items():
        if state[name].shape != value.shape:
            raise MusiqError(
                f"{choice}: {name} has the shape {tuple(state[name].shape)}; torchvision's ResNet-50 has "
                f"{tuple(value.shape)}. {ADVICE}"
            )
    try:
        check_weights({name: state[name] for name in wanted})
    except MusiqError as problem:
        raise MusiqError(f"{choice}: {problem}") from problem


def _download() -> Mapping[str, Tensor]:
    try:
        return dict(torchvision.models.ResNet50_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError, ValueError) as problem:  # no network, a wrong hash, a proxy's page
        raise MusiqError(
            f"torchvision's ResNet-50 weights cannot be downloaded ({problem}). Fetch "
            "https://download.pytorch.org/models/resnet50-0676ba61.pth where there is a network and give its path as "
            "--trunk-weights FILE, or --trunk-weights none to start from random weights."
        ) from problem


def _read(path: Path) -> Mapping[str, Tensor]:
    try:
        if path.suffix == ".npz":
            return {name: torch.from_numpy(array) for name, array in read_npz(path).items()}
        content = read_torch(path)
    except MusiqError as problem:
        raise MusiqError(f"{problem} {ADVICE}") from problem
    except TypeError as problem:  # arrays of text
        raise MusiqError(f"{path} holds more than numbers ({problem}). {ADVICE}") from problem
    state = find_state(content) if isinstance(content, Mapping) else {}
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise MusiqError(f"{path} is no dict of tensors. {ADVICE}")
    return tensors_of(state)
