"""The `musiq-export` command."""

from __future__ import annotations

import contextlib
import signal
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from musiq import artifact
from musiq.cli import Command
from musiq.errors import MusiqError
from musiq.spec import Spec

from .check import LIMITS, Limits
from .formats import check_possible, find
from .request import INPUTS, Batch, Request

if TYPE_CHECKING:
    from musiq.model import Musiq

    from .exporter import Reference

PRECISIONS = tuple(LIMITS)


@click.command(cls=Command, context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    show_default="best of the newest run in runs/",
    help="Checkpoint of any layout: ours, the ResNet-50 reimplementation's, pyiqa's, the original .npz.",
)
@click.option(
    "--format", "formats", multiple=True, default=("onnx",), help="Repeatable; 'all' for all that can be built here."
)
@click.option(
    "--height", type=click.IntRange(32), show_default="the checkpoint's, else 768", help="Of the pictures, in pixels."
)
@click.option(
    "--width", type=click.IntRange(32), show_default="the checkpoint's, else 1024", help="Of the pictures, in pixels."
)
@click.option("--precision", type=click.Choice(PRECISIONS), default="fp32", help="Of trunk, transformer and head.")
@click.option(
    "--inputs", type=click.Choice(INPUTS), default="image", help="One uint8 picture, or its normalised scales."
)
@click.option("--batch", default="1..", help="One size, or smallest..largest; '1..' has no limit.")
@click.option("--batch-opt", type=click.IntRange(1), default=8, help="The size that TensorRT makes fastest.")
@click.option("--opset", type=click.IntRange(18, 23), show_default="18, bf16: 22", help="Of ONNX.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("exports"), help="Folder for the artefacts.")
@click.option("--name", show_default="preset, size and precision", help="Of the files, without an ending.")
@click.option(
    "--images", type=click.Path(path_type=Path), show_default="generated ones", help="Folder of pictures for the check."
)
@click.option("--max-images", type=click.IntRange(1), default=64, help="How many of them.")
@click.option(
    "--max-difference", type=float, show_default="by precision", help="Largest allowed, in % of the score range."
)
@click.option("--min-srcc", type=float, show_default="by precision", help="Least allowed rank correlation.")
@click.option(
    "--calibration-images",
    type=click.Path(path_type=Path),
    help="For int8: folder with 64 to 512 pictures like those to be scored.",
)
@click.option("--force", is_flag=True, help="Keep an int8 file that is slower than fp32 on this machine.")
@click.option(
    "--gpus", show_default="80,86,89,120", help="For trt-rtx: compute capabilities: 75,80,86,89,120,121 (RTX 20 to 50)."
)
@click.option("--tf32/--no-tf32", help="Let TensorRT round fp32 products to TF32.")
@click.option("--compatible", is_flag=True, help="For trt: run in newer versions and on Ampere and newer GPUs, slower.")
@click.option(
    "--timing-cache",
    type=click.Path(path_type=Path, dir_okay=False),
    show_default="in ~/.cache/musiq",
    help="For trt: kernel timings kept between builds.",
)
def main(checkpoint: Path | None, formats: tuple[str, ...], out: Path, images: Path | None, **options: Any) -> None:
    """Turn a checkpoint into files that score like it, proven before they get their names.

    \b
    musiq-export --checkpoint runs/koniq/best.safetensors --format onnx
    musiq-export --checkpoint musiq_koniq.npz --height 384 --width 512
    """
    from musiq import checkpoint as checkpoints

    from .exporter import export
    from .simplify import gflop, simplify

    # A terminated export cleans up like an interrupted one.
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    chosen = [find(name) for name in formats]
    batch, limits = parse_batch(options["batch"], options["batch_opt"]), limits_of(options)
    engine = engine_options(options)
    checkpoint = checkpoint or newest_checkpoint(Path("runs"))
    click.echo(f"{checkpoint}: reading")
    model = checkpoints.load(checkpoint, options["height"], options["width"])
    simple = simplify(model)
    request = Request(simple, options["precision"], options["inputs"], batch, opset_of(options))
    request = replace(request, options={**engine, **int8_options(options, limits, model.spec)})
    for format in chosen:
        check_possible(format, request)
    spec = model.spec
    click.echo(
        f"{spec.preset}, {spec.width}x{spec.height}, {spec.tokens} tokens: "
        f"{gflop(model):.1f} GFLOP, simplified {gflop(simple):.1f}"
    )
    reference = make_reference(checkpoint, model, images, options["max_images"])
    for format in chosen:
        path = out / (file_name(options["name"], request) + format.suffix)
        click.echo(f"{format.name} {request.precision}: building")
        record = export(format, request, reference, limits, path, click.echo)
        tell_done(path, record, images)


def tell_done(path: Path, record: artifact.Record, images: Path | None) -> None:
    size = path.stat().st_size / 1e6
    nodes = f", {record.details['nodes']} nodes" if "nodes" in record.details else ""
    click.echo(f"{path}  {size:.1f} MB{nodes}, built in {record.details['build_s']} s")
    if record.unverified:
        click.echo(f"[-] unverified: {record.unverified}")
    photos = images or "PHOTOS/"
    click.echo(f"next:  musiq-score {photos} --model {path}\n       musiq-bench --images {photos} --models {path}")


def newest_checkpoint(runs: Path) -> Path:
    """The best checkpoint of the run that was trained last."""
    found = sorted(runs.glob("*/best.safetensors"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise MusiqError(
            f"There is no checkpoint: {runs}/*/best.safetensors is empty. Give --checkpoint, or run train.py first."
        )
    return found[-1]


def parse_batch(text: str, best: int = 8) -> Batch:
    """ "4" is static; "1..32" dynamic; "1.." without limit."""
    smallest, dots, largest = text.partition("..")
    try:
        low = int(smallest)
        high = int(largest) if largest else (0 if dots else low)
    except ValueError:
        low = high = -1
    if low < 1 or (high and high < low) or high < 0:
        raise MusiqError(f"--batch {text!r} is no batch size; expected e.g. 1, 8, 1..32 or 1..")
    return Batch(low, high, max(low, min(best, high or best)))


def limits_of(options: dict[str, Any]) -> Limits:
    limits = LIMITS[options["precision"]]
    if options["max_difference"] is not None:
        limits = replace(limits, difference=options["max_difference"])
    if options["min_srcc"] is not None:
        limits = replace(limits, srcc=options["min_srcc"])
    return limits


def engine_options(options: dict[str, Any]) -> dict[str, Any]:
    """What only engines read; `gpus` are compute capabilities without the dot, checked here."""
    from .engine import parse_gpus

    gpus = parse_gpus(options["gpus"]) if options["gpus"] else ()
    return {"gpus": gpus, **{name: options[name] for name in ("tf32", "compatible", "timing_cache")}}


def int8_options(options: dict[str, Any], limits: Limits, spec: Spec) -> dict[str, Any]:
    """What int8 needs beyond the request: real pictures, and the limits that its own measuring keeps to."""
    if options["precision"] != "int8":
        return {}
    from . import calibration

    folder: Path | None = options["calibration_images"]
    if folder is None:
        raise calibration.missing()
    pictures = calibration.read(folder, spec.height, spec.width, lambda text: click.echo(f"Warning: {text}", err=True))
    return {"calibration": pictures, "limits": limits, "force": options["force"]}


def opset_of(options: dict[str, Any]) -> int:
    """18 unless asked; bf16 convolutions exist from opset 22 on."""
    needed = 22 if options["precision"] == "bf16" else 18
    opset: int = options["opset"] or needed
    if opset < needed:
        raise MusiqError(
            f"bf16 needs opset 22 or newer, not {opset}: earlier convolutions do not take it. Leave out --opset."
        )
    return opset


def file_name(name: str | None, request: Request) -> str:
    spec = request.model.spec
    parts = [name or f"{spec.preset}-{spec.width}x{spec.height}"]
    parts += [] if name or request.precision == "fp32" else [request.precision]
    parts += [] if name or request.inputs == "image" else [request.inputs]
    return "-".join(parts)


def make_reference(checkpoint: Path, model: Musiq, images: Path | None, most: int) -> Reference:
    from . import pictures
    from .exporter import Reference, reference_scores

    spec = model.spec
    if images is None:
        chosen, called = pictures.generated(spec.height, spec.width), "generated"
    else:
        chosen, called = pictures.read(images, spec.height, spec.width, most), images.name
    return Reference(checkpoint.name, artifact.sha256(checkpoint), chosen, reference_scores(model, chosen), called)


if __name__ == "__main__":
    main()
