"""Where the ResNet-50 trunk starts from: torchvision's ImageNet weights, from a file or downloaded."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
import torchvision
from torch import Tensor

from musiq.errors import MusiqError
from musiq.model import Musiq, ResNetTrunk

OTHERWISE = "or --trunk-weights none to start from random weights."


def load_trunk(model: Musiq, choice: str) -> None:
    """Fill `model.trunk.net` from `choice`: "none" (left random), "download" (torchvision's ImageNet weights, V1), or the
    path of such a file (resnet50-0676ba61.pth; also the same as resnet50.pth).

    Raises MusiqError for a trunk that is no ResNet-50, a file that cannot be read, tensors that are missing or of another
    shape, and a download without a network.
    """
    if choice == "none":
        return
    if not isinstance(model.trunk, ResNetTrunk):
        raise MusiqError(
            f"--trunk-weights {choice} is for the resnet50 presets; {model.spec.preset} has its own trunk. Leave it out."
        )
    state = _download() if choice == "download" else _read(Path(choice))
    wanted = model.trunk.net.state_dict()
    # Counters that older files lack and nothing reads: the momentum is fixed.
    needed = [name for name in wanted if not name.endswith("num_batches_tracked")]
    if absent := [name for name in needed if name not in state]:
        raise MusiqError(
            f"{choice} lacks {len(absent)} of the {len(needed)} tensors of torchvision's ResNet-50, {absent[0]} "
            f"first. Give resnet50-0676ba61.pth, {OTHERWISE}"
        )
    for name in needed:
        if state[name].shape != wanted[name].shape:
            raise MusiqError(
                f"{choice}: {name} has the shape {tuple(state[name].shape)}; torchvision's ResNet-50 has "
                f"{tuple(wanted[name].shape)}. Give resnet50-0676ba61.pth, {OTHERWISE}"
            )
    # Classifier weights (fc) are left behind: the model has a head of its own.
    model.trunk.net.load_state_dict({name: state.get(name, value) for name, value in wanted.items()})


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
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as problem:
        raise MusiqError(
            f"Cannot read {path}: {problem.strerror}. Give resnet50-0676ba61.pth, {OTHERWISE}"
        ) from problem
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as problem:
        raise MusiqError(f"{path} is no file of plain tensors. Give resnet50-0676ba61.pth, {OTHERWISE}") from problem
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise MusiqError(f"{path} is no dict of tensors. Give resnet50-0676ba61.pth, {OTHERWISE}")
    return content
