"""The `musiq-export` command."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from musiq import artifact
from musiq.bundled import default_checkpoint
from musiq.errors import MusiqError, RefusedError, check_installed, is_memory_short, one_line
from musiq.files import check_utf8, special_kind
from musiq.published import checkpoint_path
from musiq.spec import FIXED_SIDES, Spec
from musiq.terminal import Command, FiniteRange

from .exporter import export, verify
from .formats import FORMATS, check_possible, find
from .options import MOST_IMAGES, ExportOptions
from .request import INPUTS, LIMITS, TARGETS, Format, Request
from .sizes import MEANT_FOR_ANY, size_line, spec_for
from .table import table
from .triton import export_repository

if TYPE_CHECKING:
    from musiq.model.network import Musiq

    from .exporter import Reference

PRECISIONS = tuple(LIMITS)
FORMAT_HELP = (
    ", ".join(f"{name} ({format.note})" if format.note else name for name, format in FORMATS.items())
    + "; repeatable; 'all' for every file that can be built here."
)


@click.command(cls=Command, context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    show_default="best of the newest run in runs/, else of the model that comes with musiq",
    help="Checkpoint of any layout: ours, the ResNet-50 reimplementation's, pyiqa's, the original .npz; or the name of a "
    "published one (musiq-score --list-models).",
)
@click.option("--format", "formats", multiple=True, default=("onnx",), help=FORMAT_HELP)
@click.option(
    "--size",
    show_default="any for the paper's and pyiqa's weights, but 1024x768 in TorchScript and engines; else the checkpoint's",
    help="Of the images: any, or WIDTHxHEIGHT in pixels, which others are resized to cover and cropped to.",
)
@click.option("--height", type=click.IntRange(*FIXED_SIDES), show_default="of --size", help="Of the images, in pixels.")
@click.option("--width", type=click.IntRange(*FIXED_SIDES), show_default="of --size", help="Of the images, in pixels.")
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(PRECISIONS),
    multiple=True,
    default=("fp32",),
    help="Of trunk, transformer and head; repeatable.",
)
@click.option(
    "--inputs",
    type=click.Choice(INPUTS),
    default="image",
    help="One uint8 image; its normalised scales; or for any size the patches that it is cut into, as engines need it.",
)
@click.option(
    "--padded", is_flag=True, help="For patches: different numbers of tokens in one call, with their lengths."
)
@click.option(
    "--tokens",
    show_default="1.., engines: 16..4096",
    help="For patches: fewest..most of an image; with --padded also one number, which all are padded to. Full HD has 2153.",
)
@click.option(
    "--tune-for",
    type=click.Choice(TARGETS),
    show_default="gpu where PyTorch sees one, else cpu",
    help="Where the file is to be fast; it runs on both. Of presets with a patch trunk (musiq, musiq-pyiqa, tiny).",
)
@click.option("--batch", default="1..", help="One size, or smallest..largest; '1..' has no limit.")
@click.option(
    "--batch-opt", type=click.IntRange(1, MOST_IMAGES), show_default="8", help="The size that TensorRT makes fastest."
)
@click.option("--opset", type=click.IntRange(17, 23), show_default="18, bf16: 22", help="Of ONNX.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("exports"), help="Folder for the artifacts.")
@click.option("--name", show_default="preset, size and precision", help="Of the files, without an ending.")
@click.option(
    "--images", type=click.Path(path_type=Path), show_default="generated ones", help="Folder of images for the check."
)
@click.option("--max-images", type=click.IntRange(1), default=64, help="How many of them.")
@click.option(
    "--max-difference",
    type=FiniteRange(0),
    show_default="by precision",
    help="Largest allowed, in % of the score range; where a checkpoint knows none, of the spread of the scores.",
)
@click.option("--min-srcc", type=FiniteRange(0, 1), show_default="by precision", help="Least allowed rank correlation.")
@click.option(
    "--calibration-images",
    type=click.Path(path_type=Path),
    help="For int8: folder with 64 to 512 images like those to be scored.",
)
@click.option(
    "--weight-bits",
    type=click.IntRange(7, 8),
    show_default="8 where this CPU has VNNI or the file is for GPUs, else 7",
    help="For int8: 7 for files that also go to x86 CPUs without VNNI, whose sums overflow with 8.",
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
@click.option(
    "--verify",
    "unverified",
    type=click.Path(path_type=Path),
    help="Finish the check of this artifact, which could not run where it was built.",
)
@click.option(
    "--table",
    "folder",
    type=click.Path(path_type=Path),
    help="Only show the artifacts of this folder as a Markdown table, from their records.",
)
def main(**given: Any) -> None:
    """Turn a checkpoint into files that score like it, proven before they get their names.

    \b
    musiq-export --checkpoint runs/koniq/best.safetensors --format onnx
    musiq-export --checkpoint musiq_koniq.npz --size any --format onnx --format openvino
    musiq-export --checkpoint musiq_koniq.npz --size 512x384 --format all --precision fp32 --precision bf16
    musiq-export --table exports/
    """
    # A terminated export cleans up like an interrupted one.
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    options = ExportOptions.parse(**given)
    if options.folder is not None:
        click.echo(table(options.folder))
        return
    needed = ("torch", "torchvision", "safetensors", "einops")
    check_installed(needed, "musiq-export reads the checkpoint with PyTorch and", "train")
    chosen = [find(name) for name in options.formats if name != "all"]
    checkpoint = checkpoint_path(options.checkpoint) if options.checkpoint else default_checkpoint()
    if options.unverified is not None:
        verify(options.unverified, checkpoint, options.reference, options.limits, click.echo)
        click.echo(f"{options.unverified} is verified")
        return
    check_places(options)
    every = "all" in options.formats
    files = [format for format in FORMATS.values() if not format.repository or format in chosen]
    try:
        export_all(checkpoint, files if every else chosen, options, skip_impossible=every)
    except (MemoryError, RuntimeError) as problem:
        if not is_memory_short(problem):
            raise
        raise MusiqError(
            f"Memory is short ({one_line(problem)}). Give a smaller --size, or fewer --max-images."
        ) from problem


def check_places(options: ExportOptions) -> None:
    """Raise MusiqError for places that a finished build could not be written to, or that are read but not there."""
    if options.name is not None and (options.name in (".", "..") or any(each in options.name for each in "/\\\0")):
        raise MusiqError(f"--name is {options.name!r}; expected the name of a file, whose folder --out gives.")
    if options.calibration_images is not None and not options.calibration_images.exists():
        raise MusiqError(f"There is no {options.calibration_images}: give --calibration-images a folder of images.")
    check_utf8(options.out / (options.name or ""))
    cache = options.engine.timing_cache
    if cache and (kind := special_kind(cache)):
        raise MusiqError(f"Cannot write {cache}: it is {kind}. Give --timing-cache the name of a file.")


def export_all(checkpoint: Path, formats: list[Format], options: ExportOptions, skip_impossible: bool) -> None:
    """Every format in every precision; one that fails costs no other."""
    from musiq.model import checkpoint as checkpoints

    click.echo(f"{checkpoint}: reading")
    size = options.size
    model = checkpoints.load(checkpoint, size.height, size.width, any_size=size.any)
    by_size: dict[Spec, list[Format]] = {}
    for format in formats:
        by_size.setdefault(spec_for(format, options.inputs, size, model.spec), []).append(format)
    wanted = [
        each
        for spec, those in by_size.items()
        for each in of_one_size(checkpoint, model, spec, those, options, skip_impossible)
    ]
    if options.tune_for is None and model.spec.trunk == "patch" and any(not each[0].gpu_only for each in wanted):
        target = options.target()
        click.echo(f"tuned for a {target}; --tune-for {'gpu' if target == 'cpu' else 'cpu'} for the other")
    failures = 0
    for format, request, reference in wanted:
        try:
            export_one(format, request, reference, options)
        except MusiqError as problem:
            if len(wanted) == 1:
                raise
            click.echo(f"Error: {problem}", err=True)
            failures += 1
    if failures:
        raise MusiqError(f"{failures} of {len(wanted)} artifacts could not be made; the reasons are above.")


def of_one_size(
    checkpoint: Path, model: Musiq, spec: Spec, formats: list[Format], options: ExportOptions, skip_impossible: bool
) -> list[tuple[Format, Request, Reference]]:
    """What is to be made for the size of `spec`, in every precision, with what it is compared with."""
    from .graph.simplify import gflop, simplify
    from .graph.sized import sized

    model = sized(model, spec)
    simple = simplify(model)
    requests = options.requests(simple, lambda text: click.echo(f"Warning: {text}", err=True))
    wanted = [(format, request) for request in requests for format in possible(formats, request, skip_impossible)]
    if not wanted:
        return []
    click.echo(size_line(spec, gflop(model), gflop(simple)))
    if spec.preset in MEANT_FOR_ANY and not spec.any_size:
        able = ", ".join(name for name, format in FORMATS.items() if options.inputs in format.any_size)
        click.echo(
            f"{spec.preset} at {spec.size_name}: other images will be resized to cover it and cropped; --size any scores "
            f"each at its own size (--format {able})"
        )
    reference = options.reference(checkpoint, model)
    return [(format, request, reference) for format, request in wanted]


def export_one(format: Format, request: Request, reference: Reference, options: ExportOptions) -> None:
    make, path = export_repository if format.repository else export, options.path(request, format)
    click.echo(f"{format.name} {request.precision}: building")
    try:
        record = make(format, request, reference, options.limits(LIMITS[request.precision]), path, click.echo)
    except RefusedError as problem:
        if not format.repository:  # for whoever looks for the file, and for tables
            with contextlib.suppress(MusiqError):
                artifact.write_refusal(path, artifact.Refusal(request.precision, one_line(problem)))
        raise
    artifact.refusal_path(path).unlink(missing_ok=True)
    show_result(path, record, options.images)
    if format.repository:
        click.echo(f"       tritonserver --model-repository={path.parents[2]}")


def possible(formats: list[Format], request: Request, skip_impossible: bool) -> list[Format]:
    """The formats that can be made; the first that cannot is an error, or where `skip_impossible` only a line."""
    fine = []
    for format in formats:
        try:
            check_possible(format, request)
            fine.append(format)
        except MusiqError as problem:
            if not skip_impossible:
                raise
            click.echo(f"[-] {format.name} {request.precision} is left out: {problem}")
    return fine


def show_result(path: Path, record: artifact.Record, images: Path | None) -> None:
    size = path.stat().st_size / 1e6
    nodes = f", {record.details.nodes} nodes" if record.details.nodes else ""
    limits = tokens_in_words(*record.details.tokens) if record.details.tokens else ""
    click.echo(f"{path}  {size:.1f} MB{nodes}{limits}, built in {record.details.build_s} s")
    if record.unverified:
        click.echo(f"[-] unverified: {record.unverified}")
        click.echo(f"next:  musiq-export --verify {path} --checkpoint CHECKPOINT, where it can run")
        return
    photos = images or "PHOTOS/"
    click.echo(f"next:  musiq-score {photos} --model {path}\n       musiq-bench --images {photos} --models {path}")


def tokens_in_words(fewest: int, most: int) -> str:
    """What a file of patches says of the images that it is for; nothing where it is for all."""
    if fewest == most:
        return f", images padded to {most} tokens"
    limits = [f"{fewest} or more" if fewest > 1 else "", f"{fewest} to {most}"][bool(most)]
    return f", for images of {limits} tokens" if limits else ""


if __name__ == "__main__":
    main()
