"""The formats that a model can be exported to: one literal table, one builder each, one runtime each."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from musiq.errors import MusiqError

from .request import Built, Request

Builder = Callable[[Request, Path], Built]


@dataclass(frozen=True)
class Format:
    """`suffix` ties it to its runtime (`musiq.runtimes.RUNTIMES`); `package` must be importable, `extra` installs it."""

    name: str
    suffix: str
    build: Builder
    package: str
    extra: str
    precisions: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    note: str = ""


def _onnx(request: Request, path: Path) -> Built:
    from .onnx_model import build

    return build(request, path)


FORMATS: dict[str, Format] = {
    "onnx": Format("onnx", ".onnx", _onnx, "onnxruntime", "cpu", ("fp32", "fp16", "bf16")),
}


def find(name: str) -> Format:
    """The format of that name or alias. Raises MusiqError that suggests the nearest one."""
    names = {alias: key for key, known in FORMATS.items() for alias in (key, *known.aliases)}
    if name.lower() in names:
        return FORMATS[names[name.lower()]]
    near = difflib.get_close_matches(name.lower(), names, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise MusiqError(f"There is no format {name!r}.{hint} The formats are {', '.join(FORMATS)}.")


def check_possible(format: Format, request: Request) -> None:
    """Say what this format cannot do before any work starts."""
    if request.precision not in format.precisions:
        raise MusiqError(
            f"{format.name} cannot be made in {request.precision}; its precisions are {', '.join(format.precisions)}."
        )
    if importlib.util.find_spec(format.package) is None:
        raise MusiqError(f"{format.name} needs {format.package}: pip install 'musiq[{format.extra}]'.")
