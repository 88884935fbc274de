"""Artifacts and their records: written whole or not at all, known by their SHA-256, refused when they changed.

An artifact `model.onnx` has beside it a record `model.onnx.json`: what it is (Spec, format, precision, inputs, batch),
where it comes from (checkpoint and versions), what is inside (layer types) and how it compared with the original.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from musiq.errors import MusiqError
from musiq.files import atomic_write, opened_to_read, sha256, why_unreadable
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
class Cost:
    """What int8 does to the scores of the held-out images, in score units."""

    max_difference: float
    mean_difference: float
    srcc: float | None


@dataclass(frozen=True)
class Sensitivity:
    """What int8 costs, measured on `images` held-out images: each group of layers alone, and all that became int8."""

    images: int
    kept_fp32: tuple[str, ...]  # the groups that stay in fp32
    together: Cost  # of the others
    groups: dict[str, Cost]


@dataclass(frozen=True)
class CalibrationFiles:
    """The images behind an int8 artifact, by their paths below the folder of calibration images."""

    ranges: tuple[str, ...] = ()  # set the activations' ranges
    held_out: tuple[str, ...] = ()  # measured what that costs


@dataclass(frozen=True)
class Int8Details:
    """How an artifact is int8."""

    products: int  # convolutions and matrix products of two int8 factors
    weight_bits: int = 8  # 7: sums of products cannot overflow on any CPU
    activations: str = ""  # "uint8", or "int8 symmetric" for TensorRT
    rounding: str = ""  # of the weights
    calibration: CalibrationFiles = field(default_factory=CalibrationFiles)
    sensitivity: Sensitivity | None = None


@dataclass(frozen=True)
class Speed:
    """Medians of an int8 artifact and of the same model in fp32, in one runtime on the machine that exported it."""

    int8_ms: float
    fp32_ms: float
    batch: int
    times_fp32: float
    forced: bool  # slower, and kept all the same


@dataclass(frozen=True)
class Details:
    """What an exporter knows of an artifact beyond its kind; each format leaves out what it does not have."""

    opset: int | None = None
    nodes: int | None = None
    gflop: float | None = None  # for one image, of the simplified model
    build_s: float | None = None
    tuned_for: str = ""  # "cpu" or "gpu"
    tf32: bool | None = None  # whether TensorRT may round fp32 products to TF32
    weight_types: dict[str, int] = field(default_factory=dict)  # elements by float type: {"float16": 312960, ...}
    gpus: tuple[int, ...] = ()  # compute capabilities without the dot, of an engine
    compatible: bool = False  # an engine for newer versions and on newer GPUs too
    profile: tuple[int, int, int] | None = None  # smallest, best and largest batch of an engine
    tokens: tuple[int, int] | None = None  # fewest and most of an image, of a file of patches; most 0: no limit
    pyramid_precision: str = ""  # where it is not fp32
    int8: Int8Details | None = None
    speed: Speed | None = None

    def to_dict(self) -> dict[str, Any]:
        """What there is to say, for JSON."""
        nothing = dataclasses.asdict(Details())
        return {key: value for key, value in dataclasses.asdict(self).items() if value != nothing[key]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Details:
        """What `to_dict` gave, after JSON. Raises TypeError for what it never gives."""
        profile, tokens, int8, speed = (values.get(key) for key in ("profile", "tokens", "int8", "speed"))
        read = {
            "gpus": tuple(values.get("gpus", ())),
            "profile": tuple(profile) if profile else None,
            "tokens": tuple(tokens) if tokens else None,
            "int8": _int8(int8) if int8 else None,
            "speed": Speed(**speed) if speed else None,
        }
        return cls(**{**values, **read})


def _int8(values: dict[str, Any]) -> Int8Details:
    files, measured = values.get("calibration", {}), values.get("sensitivity")
    sensitivity = measured and Sensitivity(
        images=measured["images"],
        kept_fp32=tuple(measured["kept_fp32"]),
        together=Cost(**measured["together"]),
        groups={name: Cost(**cost) for name, cost in measured["groups"].items()},
    )
    calibration = CalibrationFiles(**{key: tuple(names) for key, names in files.items()})
    return Int8Details(**{**values, "calibration": calibration, "sensitivity": sensitivity})


def _with_names_of_today(values: dict[str, Any]) -> dict[str, Any]:
    """A record's JSON, where musiq-export wrote it before its details had types: the same facts under today's names."""
    check, details = dict(values.get("check") or {}), dict(values.get("details") or {})
    if "pictures" in check:
        check["image_source"] = check.pop("pictures")
    weights = details.pop("weights", None)
    if isinstance(weights, dict):
        details["weight_types"] = weights
    if "pyramid" in details:
        details["pyramid_precision"] = details.pop("pyramid")
    if "int8_products" in details:
        bits = 7 if str(weights).endswith(", 7 bits used") else 8
        moved = {
            key: details.pop(key) for key in ("calibration", "sensitivity", "activations", "rounding") if key in details
        }
        details["int8"] = {"products": details.pop("int8_products"), "weight_bits": bits, **moved}
    sensitivity = (details.get("int8") or {}).get("sensitivity") or {}
    if "pictures" in sensitivity:
        sensitivity["images"] = sensitivity.pop("pictures")
    return {**values, "check": check or None, "details": details}


@dataclass(frozen=True)
class Record:
    """What is known of an artifact; `unverified` says why it could not be checked, and is empty when it was."""

    spec: Spec
    format: str
    precision: str
    sha256: str
    checkpoint: dict[str, str] = field(default_factory=dict)  # name, sha256
    inputs: str = "image"  # uint8 NHWC; "pyramid": the normalised float scales; "patches" and "padded-patches"
    batch: tuple[int, int] = (1, 0)  # smallest and largest; 0: no limit
    versions: dict[str, str] = field(default_factory=dict)
    layers: dict[str, int] = field(default_factory=dict)  # layer types in the finished artifact, with counts
    check: Check | None = None
    unverified: str = ""
    files: dict[str, str] = field(default_factory=dict)  # ending and SHA-256 of files that belong to it, such as .bin
    details: Details = field(default_factory=Details)

    def to_json(self) -> str:
        return json.dumps({**dataclasses.asdict(self), "details": self.details.to_dict()}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Record:
        """The record that `to_json` wrote, in this version or an older one. Raises MusiqError for anything else."""
        try:
            values = json.loads(text)
            if not isinstance(values, dict):
                raise TypeError(f"it is a {type(values).__name__}")
            values = _with_names_of_today(values)
            if not isinstance(values["spec"], dict):
                raise TypeError(f"its spec is a {type(values['spec']).__name__}")
            values["spec"] = Spec.from_json(json.dumps(values["spec"]))
            values["batch"] = tuple(values["batch"])
            values["check"] = Check(**values["check"]) if values["check"] else None
            values["details"] = Details.from_dict(values["details"])
            record = cls(**values)
            _check_types(record)
            return record
        except (AttributeError, TypeError, KeyError, ValueError, RecursionError) as problem:
            raise MusiqError(f"The artifact's record cannot be read ({problem}). Export the model again.") from problem


def _check_types(facts: Any) -> None:
    """Raise TypeError where a field of a dataclass, or of one in it, is not of the type that it is declared with."""
    for name, kind in get_type_hints(type(facts)).items():
        if not _is_a(getattr(facts, name), kind):
            raise TypeError(f"{name} is {getattr(facts, name)!r}")


def _is_a(value: Any, kind: Any) -> bool:
    origin, kinds = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return any(_is_a(value, each) for each in kinds)
    if origin is dict:
        return isinstance(value, dict) and all(_is_a(each, kinds[1]) for each in value.values())
    if origin is tuple:
        kinds = kinds[:1] * len(value) if kinds[1:] == (...,) else kinds
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(_is_a, value, kinds))
    if not isinstance(value, (int, float) if kind is float else kind):
        return False
    if dataclasses.is_dataclass(value) and not isinstance(value, Spec):
        _check_types(value)
    return True


def record_path(artifact: Path) -> Path:
    """Where an artifact's record is: `model.onnx.json` beside `model.onnx`."""
    return artifact.with_name(artifact.name + ".json")


def write_record(artifact: Path, record: Record) -> None:
    """Write an artifact's record beside it. Raises MusiqError where the folder cannot be written."""
    with atomic_write(record_path(artifact)) as part:
        part.write_text(record.to_json(), encoding="utf-8")


def read_record(artifact: Path) -> Record | None:
    """Read the record beside an artifact, and check that it is still the artifact's.

    Args:
        artifact: The artifact's path.

    Returns:
        The record; None where there is none.

    Raises:
        MusiqError: The record cannot be read, or the SHA-256 of the artifact, or of a file that belongs to it, is not
            the recorded one.
    """
    path = record_path(artifact)
    if not os.path.lexists(path):
        return None
    try:
        with opened_to_read(path) as file:
            text = file.read()
    except MusiqError as problem:
        raise MusiqError(
            f"{problem} It is the record of {artifact.name}: copy it again, or export the model again."
        ) from problem
    try:
        record = Record.from_json(text)
    except MusiqError as problem:
        raise MusiqError(f"{path}: {problem}") from problem
    _check_hash(artifact, record.sha256)
    for ending, expected in record.files.items():
        _check_hash(artifact.with_suffix(ending), expected)
    return record


@dataclass(frozen=True)
class Refusal:
    """Why an artifact is not there: what musiq-export leaves in place of one that it made and did not keep."""

    precision: str
    reason: str


REFUSED = ".refused.json"


def refusal_path(artifact: Path) -> Path:
    """Where it is said that an artifact was refused: `model.onnx.refused.json` for `model.onnx`."""
    return artifact.with_name(artifact.name + REFUSED)


def write_refusal(artifact: Path, refusal: Refusal) -> None:
    """Say why an artifact is not there. Raises MusiqError where the folder cannot be written."""
    with atomic_write(refusal_path(artifact)) as part:
        part.write_text(json.dumps(dataclasses.asdict(refusal), indent=1) + "\n", encoding="utf-8")


def read_refusal(artifact: Path) -> Refusal | None:
    """Why an artifact is not there; None where it is, and where nothing (that can be read) says why."""
    if artifact.exists():
        return None
    try:
        return Refusal(**json.loads(refusal_path(artifact).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _check_hash(path: Path, expected: str) -> None:
    if why := why_unreadable(path):
        raise MusiqError(
            f"Cannot read {path}, which belongs to the artifact beside it: {why}. Copy both, or export it again."
        )
    found = sha256(path)
    if found != expected:
        raise MusiqError(
            f"{path} is not the file that was checked: its SHA-256 is {found[:12]}..., its record says "
            f"{expected[:12]}... Copy it again, or export it again."
        )


# Layers that do the work, under the names that the formats give them.
WORK = ("conv", "matmul", "matrix_multiply", "gemm", "linear", "attention", "softmax")
NO_WORK = ("convert", "quantizelinear")


MOST_KINDS = 4


def layers_in_words(record: Record) -> str:
    """The four most frequent kinds of layers that do the work, and how many others there are: "53 Conv; 410 others"."""
    working = {kind: n for kind, n in record.layers.items() if _works(kind.lower())}
    shown = ", ".join(f"{n} {kind}" for kind, n in sorted(working.items(), key=lambda item: -item[1])[:MOST_KINDS])
    return f"{shown}; {sum(record.layers.values()) - sum(working.values())} others"


def _works(kind: str) -> bool:
    return any(word in kind for word in WORK) and not any(word in kind for word in NO_WORK)
