"""TorchScript and .pt2 artefacts in PyTorch. Safe to call from several threads."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from musiq.errors import MusiqError
from musiq.runtimes import Images, Scores
from musiq.runtimes.eager import set_up, torch_device
from musiq.runtimes.feed import BATCH, INPUTS, PRECISION, SPEC, Feed

KEYS = (SPEC, INPUTS, BATCH, PRECISION)


class TracedRuntime:
    """A traced module, however it was loaded: `module(*tensors)` gives a tuple of tensors."""

    def __init__(self, module: Any, metadata: dict[str, str], device: Any, name: str, path: Path) -> None:
        self._feed = Feed.from_metadata(metadata, path)
        self._module, self._device = module, device
        self.spec = self._feed.spec
        self.provider = f"{name} {device.type}"

    def __call__(self, images: Images) -> Scores:
        return self.run(images)["score"]

    def run(self, images: Images) -> dict[str, Scores]:
        return self._feed.run(images, self._call)

    def _call(self, arrays: list[NDArray[Any]]) -> Sequence[NDArray[Any]]:
        import torch

        with torch.inference_mode():
            outputs = self._module(*(torch.from_numpy(array).to(self._device) for array in arrays))
            return [output.float().cpu().numpy() for output in outputs]

    def close(self) -> None:
        del self._module


def open_torchscript(path: Path, device: str, threads: int | None) -> TracedRuntime:
    torch = set_up(path, threads)
    place, extra = torch_device(device), dict.fromkeys(KEYS, "")
    _check_zip(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated: known, and still asked for
            module = torch.jit.load(str(path), map_location=place, _extra_files=extra)
    except RuntimeError as problem:
        raise _broken(path, problem) from problem
    return TracedRuntime(module, _texts(extra), place, "TorchScript", path)


def open_pt2(path: Path, device: str, threads: int | None) -> TracedRuntime:
    torch = set_up(path, threads)
    place, extra = torch_device(device), dict.fromkeys(KEYS, "")
    _check_zip(path)
    try:
        program = torch.export.load(str(path), extra_files=extra)
        if place.type != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, place)
        module = program.module()
    except Exception as problem:  # whatever deserialising runs into, none of it a documented type
        raise _broken(path, problem) from problem
    return TracedRuntime(module, _texts(extra), place, "torch.export", path)


def _check_zip(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        raise _broken(path, "it is no zip archive")


def _texts(extra: dict[str, Any]) -> dict[str, str]:
    return {key: value.decode() if isinstance(value, bytes) else value for key, value in extra.items() if value}


def _broken(path: Path, problem: object) -> MusiqError:
    reason = (str(problem).strip().splitlines() or [type(problem).__name__])[0][:200]
    return MusiqError(f"{path} cannot be opened by this PyTorch ({reason}). Export it again.")
