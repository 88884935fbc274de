"""Reads and writes the folder of one training run: its recipe, its labels, its state.

run.json          the recipe ("settings"), what the labels are, and where they came from ("origin")
split.csv         the labels with the split, a manifest itself
state.pt          model, optimiser and position, read by training alone; state-before.pt is the one before
best.safetensors  the checkpoint of the best validation SRCC, last.safetensors that of the last epoch
metrics.json, predictions.csv, MODEL_CARD.md   the test split's figures and scores, written once at the end
tensorboard/, curve.png   loss and validation SRCC by epoch
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from musiq.datasets.dataset import Dataset
from musiq.datasets.label_files import read_manifest, write_manifest
from musiq.datasets.load import DataOptions, Origin
from musiq.errors import MusiqError
from musiq.files import atomic_write, check_utf8
from musiq.model.tensor_files import read_torch
from musiq.training.recipe import Recipe

RUNS = Path("runs")
STATE, BEFORE = "state.pt", "state-before.pt"


@dataclass(frozen=True)
class EpochRecord:
    """What is known of an epoch that is done.

    Attributes:
        loss: Mean of its steps.
        validation_srcc: On the validation split, after it; None where undefined.
        images: That it trained on.
        seconds: That its steps took.
        waiting_seconds: Of them spent waiting for images.
    """

    loss: float
    validation_srcc: float | None
    images: float
    seconds: float
    waiting_seconds: float


RENAMED = {"pictures": "images"}
"""Fields of EpochRecord that states written before have under other names."""


@dataclass
class State:
    """Where a run stands.

    Attributes:
        epoch: Epochs that are done.
        step: Steps of the epoch at hand that are done.
        unread: Images of them that could not be read.
        loss_sum: Sum of their losses.
        best_srcc: Best SRCC on the validation split; NaN before the first epoch.
        best_epoch: The epoch of `best_srcc`, counted from 0.
        seconds: That the epoch's steps took.
        waiting: Seconds of them spent waiting for images.
        frozen_norms: Names of the batch norms that keep their statistics.
        history: Every epoch that is done.
    """

    epoch: int = 0
    step: int = 0
    unread: int = 0
    loss_sum: float = 0.0
    best_srcc: float = float("nan")
    best_epoch: int = -1
    seconds: float = 0.0
    waiting: float = 0.0
    frozen_norms: list[str] = field(default_factory=list)
    history: list[EpochRecord] = field(default_factory=list)


def new_folder(preset: str) -> Path:
    return RUNS / f"{preset}-{time.strftime('%Y%m%d-%H%M%S')}"


def newest(echo: Callable[[str], None] = lambda line: None) -> Path:
    """The run folder written to last whose files can be read; those passed over are named. Raises MusiqError where there is
    none."""
    found = sorted(RUNS.glob("*/run.json"), key=_written, reverse=True)
    for record in found:
        try:
            read_run(record.parent)
            load_state(record.parent)
            return record.parent
        except MusiqError as problem:
            echo(f"Passed over: {problem}")
    raise MusiqError(f"There is no run in {RUNS.resolve()} to resume; give its folder with --out.")


def _written(record: Path) -> float:
    """When a run was written to last, seconds since the epoch."""
    return max(path.stat().st_mtime for path in (record, record.with_name(STATE)) if path.exists())


def exists(folder: Path | None) -> bool:
    """Whether a folder holds a run; for None, whether any of RUNS does."""
    return any(RUNS.glob("*/run.json")) if folder is None else (folder / "run.json").exists()


def scored(folder: Path) -> bool:
    """Whether the test split was: it is scored once."""
    return (folder / "metrics.json").exists()


def check_new(folder: Path) -> None:
    check_utf8(folder)  # TensorBoard and safetensors open no other
    if exists(folder):
        raise MusiqError(f"{folder} holds a run already: go on with --resume --out {folder}, or give another --out.")


def write_run(folder: Path, recipe: Recipe, dataset: Dataset, terms: str, origin: Origin | None = None) -> None:
    """run.json last: a folder with it is complete.

    Args:
        folder: It is made.
        recipe: All that decides the weights.
        dataset: The labelled images, each in a split.
        terms: Those under which the images may be used.
        origin: Where they came from, which resuming compares.
    """
    write_manifest(dataset, folder / "split.csv")
    labels = {"root": str(dataset.root.resolve()), "target": dataset.target, "score_range": dataset.score_range}
    labels["terms"] = terms
    record: dict[str, object] = {"settings": dataclasses.asdict(recipe), "labels": labels}
    if origin is not None:
        record["origin"] = dataclasses.asdict(origin)
    write_json(folder / "run.json", record)


def read_run(folder: Path) -> tuple[Recipe, Dataset]:
    """Recipe and labelled images of a run. Raises MusiqError where the folder holds none."""
    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        recipe, labels = Recipe(**record["settings"]), record["labels"]
    except OSError as problem:
        raise MusiqError(f"{folder} holds no run to resume ({problem.strerror}: run.json).") from problem
    except (ValueError, TypeError, KeyError) as problem:
        raise MusiqError(f"{folder / 'run.json'} cannot be read ({problem}); start a new run.") from problem
    dataset = read_manifest(folder / "split.csv", Path(labels["root"]))
    limits = tuple(labels["score_range"]) if labels["score_range"] else None
    return recipe, dataclasses.replace(dataset, target=labels["target"], score_range=limits)


def check_same(saved: Recipe, asked: Recipe, given: Collection[str]) -> None:
    """Raises MusiqError where an option `given` on the command line is not what the run to resume was started with."""
    for name, value in dataclasses.asdict(saved).items():
        if name in given and getattr(asked, name) != value:
            option = "--" + name.replace("_", "-")
            raise MusiqError(
                f"This run was started with {option} {value}, and {option} {getattr(asked, name)} would make it another "
                "one: leave the option out to resume, or start a new run with another --out."
            )


def check_same_data(folder: Path, asked: DataOptions, given: Collection[str]) -> None:
    """Raises MusiqError where an option on data that is `given` is not what the run to resume was started with.

    Runs of earlier versions lack their origin: of them target, score range and terms alone are compared.
    """
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    saved: dict[str, object] = dict(record.get("origin", {}))
    saved |= {name: record["labels"].get(name) for name in ("target", "score_range", "terms")}
    wanted: dict[str, object] = dataclasses.asdict(Origin.of(asked))
    wanted |= {name: getattr(asked, name) for name in ("target", "score_range", "terms")}
    for name in saved:
        is_asked = name in given or (name == "root" and "data" in given)  # which may say NAME=DIR
        if is_asked and not _same(saved[name], wanted[name]):
            raise MusiqError(
                f"This run was started {_with_option(name, saved[name])}, and {_with_option(name, wanted[name])} it would "
                "be another one: leave the option out to resume, or start a new run with another --out."
            )


def _same(saved: object, asked: object) -> bool:
    """Whether a saved value is the one that is asked for, or a path of the same file; "" asks for nothing."""
    if isinstance(saved, list) and isinstance(asked, tuple):  # JSON has no tuples
        return len(saved) == len(asked) and all(map(_same, saved, asked))
    if asked in ("", saved):
        return True
    paths = [value for value in (saved, asked) if isinstance(value, str) and os.path.isabs(value)]
    return len(paths) == 2 and os.path.realpath(paths[0]) == os.path.realpath(paths[1])


def _with_option(name: str, value: object) -> str:
    """For people: "with --max-images 20", "with --data ava --data spaq", "without --target"."""
    option = "--" + name.replace("_", "-")
    if value in (None, [], ()):
        return f"without {option}"
    if not isinstance(value, list | tuple):
        return f"with {option} {value}"
    if name == "score_range":
        return f"with {option} {' '.join(f'{limit:g}' for limit in value)}"
    return "with " + " ".join(f"{option} {each}" for each in value)


def write_json(path: Path, value: object) -> None:
    with atomic_write(path) as part:
        part.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def save_state(folder: Path, state: State, parts: dict[str, Any]) -> None:
    """`parts` are state dicts: of model, optimiser and more. The state before this one is kept beside it.

    Raises MusiqError where it cannot be written; what was saved before is then still there.
    """
    import torch

    with atomic_write(folder / STATE) as part:
        try:
            torch.save({"state": dataclasses.asdict(state), **parts}, part)
        except RuntimeError as problem:  # what torch makes of a disk that is full
            raise OSError(0, f"its disk may be full ({str(problem).splitlines()[0]})") from problem
        # A second name for the last state, which is so at every moment there; some file systems know no second names.
        with suppress(OSError):
            (folder / BEFORE).unlink(missing_ok=True)
            os.link(folder / STATE, folder / BEFORE)


def load_state(folder: Path, echo: Callable[[str], None] = lambda line: None) -> tuple[State, dict[str, Any]]:
    """The saved position and state dicts, those before where the last cannot be read; the beginning and {} where a run was
    stopped before the first was saved. Raises MusiqError where there are some and none can be read."""
    found = [folder / name for name in (STATE, BEFORE) if (folder / name).exists()]
    for path in found:
        try:
            return _read_state(path)
        except MusiqError:
            echo(f"{path} is broken; going on from the state saved before it, if there is one.")
    if found:
        raise MusiqError(f"{found[0]} is broken; start a new run, or put a copy of the file back.")
    return State(), {}


def _read_state(path: Path) -> tuple[State, dict[str, Any]]:
    parts = read_torch(path)
    if not isinstance(parts, dict):
        raise MusiqError(f"{path} is no state of a run.")
    try:
        saved = parts.pop("state")
        history = [{RENAMED.get(name, name): value for name, value in epoch.items()} for epoch in saved["history"]]
        return State(**{**saved, "history": [EpochRecord(**epoch) for epoch in history]}), parts
    except (AttributeError, KeyError, TypeError) as problem:  # other fields, or none
        raise MusiqError(f"{path} is no state of a run ({problem!r}).") from problem
