"""Artifacts and their records: written whole or not at all, known by their SHA-256, refused when they changed.

An artifact `model.onnx` has beside it a record `model.onnx.json`: what it is (Spec, format, precision, inputs, batch),
where it comes from (checkpoint and versions), what is inside (layer types) and how it compared with the original.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from musiq.errors import MusiqError
from musiq.files import atomic_write, sha256
from musiq.spec import Spec


@dataclass(frozen=True)
class Check:
    """How an artifact's scores compared with PyTorch fp32 on the same images; differences in score units."""

    images: int
    max_difference: float
    mean_difference: float
    srcc: float | None
    passed: bool
    provider: str
    image_source: str = ""  # which images: a folder's name, or the generated ones
    uncertain: int = 0  # of them, those on which PyTorch's own fp32 is as far from float64 as the artifact
    decisive_difference: float = float("nan")  # the largest on the others


@dataclass(frozen=True)
class Record:
    """What is known of an artifact; `unverified` says why it could not be checked, and is empty when it was."""

    spec: Spec
    format: str
    precision: str
    sha256: str
    checkpoint: dict[str, str] = field(default_factory=dict)  # name, sha256
    inputs: str = "image"  # "image": uint8 NHWC; "pyramid": the normalised float scales
    batch: tuple[int, int] = (1, 0)  # smallest and largest; 0: no limit
    versions: dict[str, str] = field(default_factory=dict)
    layers: dict[str, int] = field(default_factory=dict)  # layer types in the finished artifact, with counts
    check: Check | None = None
    unverified: str = ""
    files: dict[str, str] = field(default_factory=dict)  # ending and SHA-256 of files that belong to it, such as .bin
    details: dict[str, Any] = field(default_factory=dict)  # what one format alone knows: opset, GPU targets, ...

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Record:
        try:
            values: dict[str, Any] = json.loads(text)
            values["spec"] = Spec.from_json(json.dumps(values["spec"]))
            values["batch"] = tuple(values["batch"])
            values["check"] = Check(**values["check"]) if values.get("check") else None
            return cls(**values)
        except (TypeError, KeyError, ValueError) as problem:
            raise MusiqError(f"The artifact's record cannot be read ({problem}). Export the model again.") from problem


SEVEN_BITS = ", 7 bits used"
"""How the "weights" of an int8 artifact's details end where their sums cannot overflow on any CPU."""


def record_path(artifact: Path) -> Path:
    return artifact.with_name(artifact.name + ".json")


def write_record(artifact: Path, record: Record) -> None:
    with atomic_write(record_path(artifact)) as part:
        part.write_text(record.to_json())


def read_record(artifact: Path) -> Record | None:
    """The record beside an artifact, None where there is none. Raises MusiqError if the artifact is not as recorded."""
    path = record_path(artifact)
    if not path.exists():
        return None
    try:
        record = Record.from_json(path.read_text())
    except MusiqError as problem:
        raise MusiqError(f"{path}: {problem}") from problem
    _check_hash(artifact, record.sha256)
    for ending, expected in record.files.items():
        _check_hash(artifact.with_suffix(ending), expected)
    return record


def _check_hash(path: Path, expected: str) -> None:
    if not path.is_file():
        raise MusiqError(f"{path} is missing, which belongs to the artifact beside it. Copy both, or export it again.")
    found = sha256(path)
    if found != expected:
        raise MusiqError(
            f"{path} is not the file that was checked: its SHA-256 is {found[:12]}..., its record says "
            f"{expected[:12]}... Copy it again, or export it again."
        )


# Layers that do the work, under the names that the formats give them.
WORK = ("conv", "matmul", "matrix_multiply", "gemm", "linear", "attention", "softmax")
NO_WORK = ("convert", "quantizelinear")


def layers_in_words(record: Record, most: int = 4) -> str:
    """The layers that do the work, the most frequent first, and how many others there are."""
    working = {kind: n for kind, n in record.layers.items() if _works(kind.lower())}
    shown = ", ".join(f"{n} {kind}" for kind, n in sorted(working.items(), key=lambda item: -item[1])[:most])
    return f"{shown}; {sum(record.layers.values()) - sum(working.values())} others"


def _works(kind: str) -> bool:
    return any(word in kind for word in WORK) and not any(word in kind for word in NO_WORK)
