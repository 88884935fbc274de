"""A model repository of Triton Inference Server round an artifact: config.pbtxt, and a version folder with the artifact
and its record. The rules are those of Triton's model configuration, whose schema is model_config.proto of its client."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from musiq import artifact
from musiq.artifact import Record
from musiq.errors import MusiqError
from musiq.runtimes.batching import DTYPES

from .exporter import Reference, Say, export
from .request import Format, Limits, Request, feed
from .staging import publish, staging

CONFIG = "config.pbtxt"

LARGEST_BATCH = 32
"""Images that Triton puts into one batch at most where --batch gives no limit: it wants a number."""

QUEUE_DELAY_US = 2000
"""Microseconds that a request may wait for others to share a batch with: little beside the model's own milliseconds."""

ONNX_RUNTIME = """\
platform: "onnxruntime_onnx"
backend: "onnxruntime"
# One session uses all CPUs; with a GPU there is one on each.
instance_group [ { count: 1, kind: KIND_AUTO } ]
# fp32 products stay fp32 on GPUs, as when the model was checked (ONNX Runtime 1.18 and newer).
optimization { execution_accelerators { gpu_execution_accelerator [
  { name: "cuda", parameters { key: "use_tf32", value: "0" } }
] } }
"""

TENSORRT = """\
platform: "tensorrt_plan"
backend: "tensorrt"
instance_group [ { count: 1, kind: KIND_GPU } ]
"""

BACKENDS = {".onnx": ONNX_RUNTIME, ".engine": TENSORRT}
"""By the ending of the file inside."""


def check_possible(request: Request) -> None:
    """Raise MusiqError for batch sizes that Triton has no way to keep to."""
    batch = request.batch
    if not batch.is_static and batch.smallest > 1:
        largest = batch.largest or LARGEST_BATCH
        raise MusiqError(
            f"Triton makes batches from one image on, not from {batch.smallest}: use --batch 1..{largest}, or one size "
            f"such as --batch {largest}."
        )


def export_repository(
    format: Format, request: Request, reference: Reference, limits: Limits, path: Path, say: Say
) -> Record:
    """Export to REPOSITORY/NAME/1/model.* with its record, and write NAME/config.pbtxt.

    The folder NAME appears when all of it is finished and checked, and takes the place of an earlier export of the same
    kind, its config.pbtxt included.

    Args:
        format: With `Format.repository`.
        request: As for `exporter.export`, like `reference`, `limits` and `say`.
        reference: The original.
        limits: Of the check.
        path: REPOSITORY/NAME/1/model.*.
        say: Called with each line for the user.

    Returns:
        The record of the file inside.

    Raises:
        MusiqError: Like `exporter.export`, and where NAME holds anything else.
    """
    folder = path.parent.parent
    _check_replaceable(folder, path)
    with staging(folder) as stage:
        part = stage / folder.name
        record = export(format, request, reference, limits, part / path.parent.name / path.name, say)
        (part / CONFIG).write_text(config(folder.name, path.name, request, record), encoding="utf-8")
        publish([part], folder.parent)
    return record


def _check_replaceable(folder: Path, path: Path) -> None:
    """Other versions of the model, and whatever else lies there, are not ours to remove."""
    if not os.path.lexists(folder):
        return
    ours = {folder / CONFIG, path, artifact.record_path(path)}
    found = {file for file in folder.rglob("*") if not file.is_dir()} if folder.is_dir() else {folder}
    if strange := sorted(str(file) for file in found - ours):
        raise MusiqError(
            f"{folder} holds more than an earlier export ({', '.join(strange[:3])}), so it is not replaced. Move it away, "
            "or give another --name."
        )


def config(name: str, file: str, request: Request, record: Record) -> str:
    """config.pbtxt for the artifact `file` of the model `name`.

    A fixed batch is part of the shapes (max_batch_size 0). With any other, Triton makes the batches: the shapes leave the
    first dimension out, and a score, which then has none left, is given one, since Triton allows no empty shape.
    """
    smallest, largest = record.batch
    fixed = smallest == largest
    lines = [
        f"name: {json.dumps(name, ensure_ascii=False)}",
        f'default_model_filename: "{file}"',
        f"max_batch_size: {0 if fixed else largest or LARGEST_BATCH}",
        *(_tensor("input", *tensor, fixed=smallest if fixed else None) for tensor in _inputs(request)),
        *(_tensor("output", *tensor, fixed=smallest if fixed else None) for tensor in _outputs(request)),
        *([] if fixed else [_batching(record)]),
        BACKENDS[Path(file).suffix],
    ]
    return "\n".join(lines)


def _inputs(request: Request) -> list[tuple[str, str, list[int]]]:
    """Name, type and shape of each input, without the batch."""
    types = {np.uint8: "TYPE_UINT8", np.int32: "TYPE_INT32", np.float32: "TYPE_FP32"}
    return [(name, types[DTYPES.get(name, np.float32)], list(shape)) for name, shape in feed(request).shapes().items()]


def _outputs(request: Request) -> list[tuple[str, str, list[int]]]:
    shares = request.model.spec.outputs
    return [("score", "TYPE_FP32", []), *([("shares", "TYPE_FP32", [shares])] if shares > 1 else [])]


def _tensor(kind: str, name: str, type: str, shape: list[int], fixed: int | None) -> str:
    shape = shape if fixed is None else [fixed, *shape]
    dims = ", ".join(map(str, shape or [1]))
    reshape = "" if shape else ", reshape: { shape: [ ] }"
    return f'{kind} [ {{ name: "{name}", data_type: {type}, dims: [ {dims} ]{reshape} }} ]'


def _batching(record: Record) -> str:
    """Only an engine has a size that it was made fastest at; for others Triton advises against preferring any."""
    profile = record.details.profile
    preferred = f"preferred_batch_size: [ {', '.join(map(str, sorted({*profile[1:]})))} ], " if profile else ""
    return f"dynamic_batching {{ {preferred}max_queue_delay_microseconds: {QUEUE_DELAY_US} }}"
