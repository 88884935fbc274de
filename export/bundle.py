"""Makes the files of the model in the box (`musiq.bundled`) from a checkpoint: its weights, and the ONNX file for any size.

Run as `python -m musiq_export.bundle --checkpoint FILE`, or by `make bundled CHECKPOINT=FILE`. Weights stay fp32: small
enough, where half precision moved scores of the first model by 0.14% of their range.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from musiq import bundled, files
from musiq.errors import check_installed
from musiq.images.fit import Resize
from musiq.terminal import Command

from .check import images as check_images
from .exporter import Reference, export
from .formats import find
from .request import Limits, Request
from .staging import publish, staging

MOST_DIFFERENCE = 0.01
"""In percent of the score range: how far the file's scores may lie from PyTorch's."""


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
        MusiqError: The checkpoint cannot be read, has no form for any size, or the file scores otherwise.
    """
    from musiq.model import checkpoint as checkpoints

    from .graph.simplify import simplify

    model = checkpoints.load(checkpoint, any_size=True)
    if resize is not None:
        model.spec = dataclasses.replace(model.spec, resize=str(Resize.parse(resize)))
    chosen = [*check_images.generated_sizes(), *check_images.read(images, None, None, 64, model.spec.resize)]
    weights, artifact = out / f"{bundled.NAME}.safetensors", out / f"{bundled.NAME}.onnx"
    with staging(weights) as folder:
        part = folder / weights.name
        checkpoints.save(model, part, checkpoints.notes(checkpoint) if _is_ours(checkpoint) else None)
        reference = Reference(model, part.name, files.sha256(part), chosen, f"generated, {images.name}")
        limits = Limits(MOST_DIFFERENCE, 0.999)
        export(find("onnx"), Request(simplify(model)), reference, limits, folder / artifact.name, click.echo)
        made = [part, *sorted(folder.glob(f"{artifact.name}*"), reverse=True)]
        publish(made, out)
    return [out / each.name for each in made]


def _is_ours(checkpoint: Path) -> bool:
    return checkpoint.suffix == ".safetensors"


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
