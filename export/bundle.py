"""Makes the files of the model in the box (`musiq.bundled`) from a checkpoint: half as large, with the same scores.

Weights are stored in half precision, in the checkpoint and in the ONNX file. What is computed stays fp32: PyTorch makes
fp32 of them when it loads them, and in the file a Cast stands behind each, which runtimes compute once, when they open it.
Run as `python -m musiq_export.bundle --checkpoint FILE`, or by `make bundled CHECKPOINT=FILE`.
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from musiq import bundled, files
from musiq.errors import MusiqError, check_installed
from musiq.images.fit import Resize
from musiq.runtimes.registry import open_runtime
from musiq.terminal import Command

from .builders import onnx as onnx_builder
from .check import images as check_images
from .check.compare import score_span
from .check.float64 import reference_scores
from .exporter import Reference, export
from .formats import find
from .request import Built, Limits, Request
from .staging import publish, staging

if TYPE_CHECKING:
    import onnx

    from musiq.model.network import Musiq

MOST_DIFFERENCE = 1e-3
"""Of the score range: how far scores may move by the rounding of weights for storing."""

LEAST_SIZE = 1024
"""Elements of a tensor that is worth a Cast."""


def halved(model: Musiq) -> Musiq:
    """The model with its matrices and kernels in half precision, and vectors (biases, statistics of norms) as they were.

    Raises MusiqError for weights beyond what half precision holds.
    """
    import torch

    found = copy.deepcopy(model)
    for name, weight in found.named_parameters():
        if weight.ndim > 1:
            weight.data = weight.data.half()
            if not torch.isfinite(weight).all():
                raise MusiqError(f"{name} has values beyond 65504, which half precision cannot store.")
    return found


def store_half(model: onnx.ModelProto) -> None:
    """Store large fp32 weights of a graph in half precision, and put a Cast behind each."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.ndim > 1 and values.size >= LEAST_SIZE:
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.stored"))
            casts.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    for cast in reversed(casts):  # nodes stand in the order of computing
        model.graph.node.insert(0, cast)


def build(request: Request, path: Path) -> Built:
    """An ONNX file as `builders.onnx.build` writes it, its weights stored in half precision; see `request.Builder`."""
    import onnx

    built = onnx_builder.build(request, path)
    model = onnx.load(path)
    store_half(model)
    onnx.save_model(model, str(path))
    onnx.checker.check_model(str(path), full_check=True)
    details = dataclasses.replace(built.details, weight_types=onnx_builder.weight_types_of(model))
    return dataclasses.replace(built, details=details)


def bundle(checkpoint: Path, resize: str | None, images: Path, out: Path) -> list[Path]:
    """Write the files of the box.

    Args:
        checkpoint: Of the model, of any layout that takes images of any size.
        resize: Its resize policy; None for what it brings.
        images: Folder of photographs that are scored, besides generated ones, to compare.
        out: Folder for the files.

    Returns:
        The files.

    Raises:
        MusiqError: The checkpoint cannot be read, has no form for any size, or scores move by more than MOST_DIFFERENCE.
    """
    from musiq.model import checkpoint as checkpoints

    from .graph.simplify import simplify

    original = checkpoints.load(checkpoint, any_size=True)
    if resize is not None:
        original.spec = dataclasses.replace(original.spec, resize=str(Resize.parse(resize)))
    chosen = [*check_images.generated_sizes(), *check_images.read(images, None, None, 64, original.spec.resize)]
    weights, artifact = out / f"{bundled.NAME}.safetensors", out / f"{bundled.NAME}.onnx"
    with staging(weights) as folder:
        part = folder / weights.name
        checkpoints.save(halved(original), part, checkpoints.notes(checkpoint) if _is_ours(checkpoint) else None)
        model = checkpoints.load(part)
        reference = Reference(model, part.name, files.sha256(part), chosen, f"generated, {images.name}")
        format = dataclasses.replace(find("onnx"), build=build)
        request = Request(simplify(model))
        export(format, request, reference, Limits(100 * MOST_DIFFERENCE, 0.999), folder / artifact.name, click.echo)
        _check(original, folder / artifact.name, reference)
        made = [part, *sorted(folder.glob(f"{artifact.name}*"), reverse=True)]
        publish(made, out)
    return [out / each.name for each in made]


def _is_ours(checkpoint: Path) -> bool:
    return checkpoint.suffix == ".safetensors"


def _check(original: Musiq, artifact: Path, reference: Reference) -> None:
    """Raise MusiqError where the artifact's scores are not those of the model before its weights were rounded."""
    runtime = open_runtime(artifact)
    try:
        found = np.concatenate([runtime(image[None]) for image in reference.images])
    finally:
        runtime.close()
    wanted = reference_scores(original, reference.images)
    difference = float(np.abs(found - wanted).max()) / score_span(original.spec, wanted)
    click.echo(f"stored in half precision, scores move by {difference:.1e} of their range at most")
    if not difference <= MOST_DIFFERENCE:
        raise MusiqError(f"Stored in half precision the scores move by more than {MOST_DIFFERENCE:g} of their range.")


PATH = click.Path(path_type=Path)


@click.command(cls=Command, context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.option("--checkpoint", type=PATH, required=True, help="Of the model that goes into the box.")
@click.option("--resize", show_default="the checkpoint's", help="Its resize policy, such as longer=1024.")
@click.option("--images", type=PATH, default=Path("examples/photos"), help="Folder of photographs to compare on.")
@click.option(
    "--out", type=PATH, default=bundled.FOLDER, show_default="the package's own", help="Folder for the files."
)
def main(checkpoint: Path, resize: str | None, images: Path, out: Path) -> None:
    """Make the files of the model that comes with musiq, from a checkpoint."""
    check_installed(("torch", "safetensors", "onnx", "onnxscript", "onnxruntime"), "The export", "train,cpu")
    for path in bundle(checkpoint, resize, images, out):
        click.echo(f"{path}  {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
