"""From a name to a file: `checkpoint_path` for what trains and exports, `model_path` for what scores.

What a name stands for is made once, in the folder of that name: the publisher's file, the checkpoint of ours that it is
converted to, and the artifact that is exported from that. Where it is there, neither torch nor a network is needed.
"""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from musiq.bundled import NAME, bundled_artifact, bundled_checkpoint
from musiq.errors import MusiqError, pip_install
from musiq.files import sha256
from musiq.published.cache import home, made_alone
from musiq.published.download import fetch, note_hash
from musiq.published.table import PUBLISHED, PublishedModel
from musiq.terminal import tell

if TYPE_CHECKING:
    from musiq.model.network import Musiq

TO_CONVERT = ("torch", "torchvision", "safetensors", "einops", "pooch", "filelock")
TO_EXPORT = (*TO_CONVERT, "onnx", "onnxscript", "onnxruntime")

NAMES = (NAME, *PUBLISHED)
"""The model in the box, and the published ones."""

Given = TypeVar("Given", bound=Path | str)


def checkpoint_path(checkpoint: Given) -> Given | Path:
    """The checkpoint that a path or a name stands for: for a published one's name it is downloaded and converted, once.

    Args:
        checkpoint: A path, which is returned as it is, or a name of `NAMES` where no file has it.

    Raises:
        MusiqError: The name is unknown, or its checkpoint is not in the cache and cannot be made.
    """
    name = _name(checkpoint)
    if name is None:
        return checkpoint
    if name == NAME:
        return bundled_checkpoint()
    _tell_notice(name)
    path = _checkpoint_file(name)
    if not os.path.exists(path):  # Path.exists raises where the folder may not be looked into
        _check_installed(name, "is converted", TO_CONVERT)
        with made_alone(path.parent):
            _make_checkpoint(name)
    return path


def model_path(model: Given) -> Given | Path:
    """The file to score with that a path or a name stands for: a published one is exported to ONNX for any size, once.

    Args:
        model: A path, which is returned as it is, or a name of `NAMES` where no file has it.

    Raises:
        MusiqError: The name is unknown, or its artifact is not in the cache and cannot be made.
    """
    name = _name(model)
    if name is None:
        return model
    if name == NAME:
        return bundled_artifact()
    _tell_notice(name)
    path = _artifact_file(name)
    if not os.path.exists(path):
        _check_installed(name, "is exported", TO_EXPORT)
        with made_alone(path.parent):
            if not path.exists():
                _make_checkpoint(name)
                _export(name, path)
    return path


def describe() -> str:
    """The published models, and what is here of each, for `musiq-score --list-models`."""
    box = f"{NAME}: the model in the box, which scores where none is named"
    return "\n".join([box, *(_described(name, model) for name, model in PUBLISHED.items())])


def _described(name: str, model: PublishedModel) -> str:
    folder = home() / name
    files = {"exported": _artifact_file(name), "checkpoint": _checkpoint_file(name), "download": folder / model.file}
    here = [what for what, file in files.items() if os.path.exists(file)]
    facts = (
        ("from", f"{model.source}, {model.licence}" + (f", {model.notice}" if model.notice else "")),
        ("file", f"{model.address} ({model.megabytes} MB)"),
        ("hash", model.hash or "none published; kept from the first download"),
        ("preset", model.preset),
        ("here", f"{', '.join(here) or 'nothing yet'}, in {folder}"),
    )
    return "\n".join([f"{name}: {model.target}", *(f"    {what:6}  {fact}" for what, fact in facts)])


def _name(given: Path | str) -> str | None:
    """The model's name that was given; None for a path. Raises MusiqError for a word that is neither."""
    text = os.fspath(given)
    if os.path.lexists(text):
        return None
    if text in NAMES:
        return text
    if re.fullmatch(r"[\w-]+", text):  # no folder before it and no ending behind it
        raise MusiqError(
            f"There is no file or folder {text}, and no model has that name. Give a file, or one of {', '.join(NAMES)}."
        )
    return None


@cache
def _tell_notice(name: str) -> None:
    """Tell once in a process what the licence of a model forbids."""
    model = PUBLISHED[name]
    if model.notice:
        tell(f"{name}: its weights are under {model.licence}, {model.notice} ({model.source})")


def _checkpoint_file(name: str) -> Path:
    return home() / name / f"{name}.safetensors"


def _artifact_file(name: str) -> Path:
    return home() / name / f"{name}.onnx"


def _check_installed(name: str, what: str, packages: tuple[str, ...]) -> None:
    missing = next((package for package in packages if find_spec(package) is None), None)
    if missing is not None:
        raise MusiqError(
            f"{name} {what} when it is first asked for, which needs {missing}: {pip_install('cpu,train')}. Or copy "
            f"{home() / name} from a machine where that was done."
        )


def _make_checkpoint(name: str) -> None:
    """Have the checkpoint of ours in the folder of the name, which is this process's own meanwhile."""
    from musiq.model import checkpoint

    path, model = _checkpoint_file(name), PUBLISHED[name]
    if path.exists():  # made by another while this one waited
        return
    source = path.with_name(model.file)
    downloaded = fetch(model, path.parent)
    try:
        converted = _converted(name, source)
    except MusiqError as problem:
        if not downloaded:
            raise
        source.unlink()
        raise MusiqError(f"{model.file}, as it was downloaded, is not {name}; nothing is kept. {problem}") from problem
    note_hash(source, model)
    notes = {"published": name, "address": model.address, "sha256": sha256(source), "licence": model.licence}
    checkpoint.save(converted, path, notes)
    tell(f"{name}: converted to {path}")


def _converted(name: str, source: Path) -> Musiq:
    """The model of a published file, with a Spec that says what its scores mean."""
    from musiq.model import checkpoint

    published = PUBLISHED[name]
    model = checkpoint.load(source)
    found = (model.spec.preset, model.spec.score_range)
    if found != (published.preset, published.score_range):
        raise MusiqError(
            f"{source} is a {found[0]} with scores of {found[1]}, expected a {published.preset} with "
            f"{published.score_range}."
        )
    model.spec = dataclasses.replace(
        model.spec, target=published.target, source=f"{name}: {published.source}, {published.licence}"
    )
    return model


def _export(name: str, path: Path) -> None:
    """Export the checkpoint as `musiq-export` does, in a process of its own, whose memory ends with it."""
    tell(f"{name}: exporting for images of any size, once")
    command = [sys.executable, "-m", "musiq_export.cli", "--checkpoint", str(_checkpoint_file(name)), "--size", "any"]
    command += ["--out", str(path.parent), "--name", path.stem]
    said = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said = line.strip()
            if not said.startswith(("next:", "musiq-bench")):
                tell(f"{name}: {said}")
    if process.returncode or not path.exists():
        raise MusiqError(f"{name} could not be exported: {said.removeprefix('Error: ') or process.returncode}")
