"""The `musiq-export` command."""

from __future__ import annotations

import contextlib
import importlib.util
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from musiq import artifact, files
from musiq.errors import MusiqError
from musiq.spec import Spec
from musiq.terminal import Command

from .check.compare import LIMITS, Limits
from .formats import FORMATS, check_possible, find
from .request import INPUTS, TARGETS, Batch, Format, Request

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
    show_default="best of the newest run in runs/",
    help="Checkpoint of any layout: ours, the ResNet-50 reimplementation's, pyiqa's, the original .npz.",
)
@click.option("--format", "formats", multiple=True, default=("onnx",), help=FORMAT_HELP)
@click.option(
    "--height", type=click.IntRange(32), show_default="the checkpoint's, else 768", help="Of the images, in pixels."
)
@click.option(
    "--width", type=click.IntRange(32), show_default="the checkpoint's, else 1024", help="Of the images, in pixels."
)
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(PRECISIONS),
    multiple=True,
    default=("fp32",),
    help="Of trunk, transformer and head; repeatable.",
)
@click.option("--inputs", type=click.Choice(INPUTS), default="image", help="One uint8 image, or its normalised scales.")
@click.option(
    "--tune-for",
    type=click.Choice(TARGETS),
    show_default="gpu where PyTorch sees one, else cpu",
    help="Where the file is to be fast; it runs on both. Of presets with a patch trunk (musiq, musiq-pyiqa, tiny).",
)
@click.option("--batch", default="1..", help="One size, or smallest..largest; '1..' has no limit.")
@click.option("--batch-opt", type=click.IntRange(1), default=8, help="The size that TensorRT makes fastest.")
@click.option("--opset", type=click.IntRange(17, 23), show_default="18, bf16: 22", help="Of ONNX.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("exports"), help="Folder for the artifacts.")
@click.option("--name", show_default="preset, size and precision", help="Of the files, without an ending.")
@click.option(
    "--images", type=click.Path(path_type=Path), show_default="generated ones", help="Folder of images for the check."
)
@click.option("--max-images", type=click.IntRange(1), default=64, help="How many of them.")
@click.option(
    "--max-difference", type=float, show_default="by precision", help="Largest allowed, in % of the score range."
)
@click.option("--min-srcc", type=float, show_default="by precision", help="Least allowed rank correlation.")
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
    type=click.Path(path_type=Path, dir_okay=False),
    help="Finish the check of this artifact, which could not run where it was built.",
)
@click.option(
    "--table",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Only show the artifacts of this folder as a Markdown table, from their records.",
)
def main(
    checkpoint: Path | None,
    formats: tuple[str, ...],
    precisions: tuple[str, ...],
    out: Path,
    unverified: Path | None,
    folder: Path | None,
    **options: Any,
) -> None:
    """Turn a checkpoint into files that score like it, proven before they get their names.

    \b
    musiq-export --checkpoint runs/koniq/best.safetensors --format onnx
    musiq-export --checkpoint musiq_koniq.npz --height 384 --width 512 --format all --precision fp32 --precision bf16
    musiq-export --table exports/
    """
    # A terminated export cleans up like an interrupted one.
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    if folder is not None:
        from .table import table

        click.echo(table(folder))
        return
    check_torch()
    chosen = [find(name) for name in formats if name != "all"]
    checkpoint = checkpoint or newest_checkpoint(Path("runs"))
    if unverified is not None:
        from .exporter import verify

        verify(unverified, checkpoint, partial(make_reference, options), partial(limits_of, options), click.echo)
        click.echo(f"{unverified} is verified")
        return
    every = "all" in formats
    files = [format for format in FORMATS.values() if not format.repository or format in chosen]
    export_all(checkpoint, files if every else chosen, precisions, out, options, patient=every)


def check_torch() -> None:
    for package in ("torch", "torchvision", "safetensors", "einops"):
        if importlib.util.find_spec(package) is None:
            raise MusiqError(
                f"musiq-export reads the checkpoint with PyTorch and needs {package}: pip install 'musiq[train]'."
            )


def export_all(
    checkpoint: Path,
    formats: list[Format],
    precisions: tuple[str, ...],
    out: Path,
    options: dict[str, Any],
    patient: bool,
) -> None:
    """Every format in every precision; one that fails costs no other. `patient`: what cannot be made is passed over."""
    from musiq.model import checkpoint as checkpoints

    from .exporter import export
    from .graph.simplify import gflop, simplify
    from .triton import export_repository

    batch, engine = parse_batch(options["batch"], options["batch_opt"]), engine_options(options)
    target = target_of(options["tune_for"])
    click.echo(f"{checkpoint}: reading")
    model = checkpoints.load(checkpoint, options["height"], options["width"])
    simple, spec = simplify(model), model.spec
    wanted = []
    for precision in precisions:
        limits = limits_of(options, LIMITS[precision])
        given = {**engine, **int8_options(options, precision, limits, spec)}
        request = Request(simple, precision, options["inputs"], batch, opset_of(options, precision), given, target)
        wanted += [(format, request, limits) for format in possible(formats, request, patient)]
    click.echo(
        f"{spec.preset}, {spec.width}x{spec.height}, {spec.tokens} tokens: "
        f"{gflop(model):.1f} GFLOP, simplified {gflop(simple):.1f}"
    )
    if options["tune_for"] is None and spec.trunk == "patch" and any(not format.gpu_only for format, *_ in wanted):
        click.echo(f"tuned for a {target}; --tune-for {'gpu' if target == 'cpu' else 'cpu'} for the other")
    reference = make_reference(options, checkpoint, model)
    failures: list[MusiqError] = []
    for format, request, limits in wanted:
        path = path_of(out, file_name(options["name"], request, len(precisions) > 1), format)
        make = export_repository if format.repository else export
        click.echo(f"{format.name} {request.precision}: building")
        try:
            tell_done(path, make(format, request, reference, limits, path, click.echo), options["images"])
            if format.repository:
                click.echo(f"       tritonserver --model-repository={path.parents[2]}")
        except MusiqError as problem:
            if len(wanted) == 1:
                raise
            click.echo(f"Error: {problem}", err=True)
            failures.append(problem)
    if failures:
        raise MusiqError(f"{len(failures)} of {len(wanted)} artifacts could not be made; the reasons are above.")


def path_of(out: Path, name: str, format: Format) -> Path:
    """The artifact's path; in a repository the version folder says whose it is, and Triton has its name for it."""
    return out / name / "1" / f"model{format.suffix}" if format.repository else out / (name + format.suffix)


def possible(formats: list[Format], request: Request, patient: bool) -> list[Format]:
    """The formats that can be made; the first that cannot is an error, or where `patient` only a line."""
    fine = []
    for format in formats:
        try:
            check_possible(format, request)
            fine.append(format)
        except MusiqError as problem:
            if not patient:
                raise
            click.echo(f"[-] {format.name} {request.precision} is left out: {problem}")
    return fine


def tell_done(path: Path, record: artifact.Record, images: Path | None) -> None:
    size = path.stat().st_size / 1e6
    nodes = f", {record.details['nodes']} nodes" if "nodes" in record.details else ""
    click.echo(f"{path}  {size:.1f} MB{nodes}, built in {record.details['build_s']} s")
    if record.unverified:
        click.echo(f"[-] unverified: {record.unverified}")
        click.echo(f"next:  musiq-export --verify {path} --checkpoint CHECKPOINT, where it can run")
        return
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


def limits_of(options: dict[str, Any], limits: Limits) -> Limits:
    """The default limits of a precision, changed as asked."""
    if options["max_difference"] is not None:
        limits = replace(limits, difference=options["max_difference"])
    if options["min_srcc"] is not None:
        limits = replace(limits, srcc=options["min_srcc"])
    return limits


def engine_options(options: dict[str, Any]) -> dict[str, Any]:
    """What only engines read; `gpus` are compute capabilities without the dot, checked here."""
    from .builders.tensorrt import parse_gpus

    gpus = parse_gpus(options["gpus"]) if options["gpus"] else ()
    return {"gpus": gpus, **{name: options[name] for name in ("tf32", "compatible", "timing_cache")}}


def target_of(asked: str | None) -> str:
    """What to tune for: what was asked, else the kind of machine that this is, on which the file is checked too."""
    return asked or ("gpu" if cuda_at_hand() else "cpu")


def cuda_at_hand() -> bool:
    import torch

    return torch.cuda.is_available()


def int8_options(options: dict[str, Any], precision: str, limits: Limits, spec: Spec) -> dict[str, Any]:
    """What int8 needs beyond the request: real images, and the limits that its own measuring keeps to."""
    if precision != "int8":
        return {}
    from .int8 import calibration

    folder: Path | None = options["calibration_images"]
    if folder is None:
        raise calibration.missing()
    images = calibration.read(folder, spec.height, spec.width, lambda text: click.echo(f"Warning: {text}", err=True))
    return {"calibration": images, "limits": limits, "force": options["force"], "weight_bits": options["weight_bits"]}


def opset_of(options: dict[str, Any], precision: str) -> int:
    """18 unless asked; bf16 convolutions exist from opset 22 on."""
    bf16 = precision == "bf16"
    opset: int = options["opset"] or (22 if bf16 else 18)
    if bf16 and opset < 22:
        raise MusiqError(
            f"bf16 needs opset 22 or newer, not {opset}: earlier convolutions do not take it. Leave out --opset."
        )
    return opset


def file_name(name: str | None, request: Request, several: bool = False) -> str:
    """Without the ending; a name that the user chose is kept, but for the precision where `several` are made."""
    spec = request.model.spec
    parts = [name or f"{spec.preset}-{spec.width}x{spec.height}"]
    parts += [] if request.precision == "fp32" or (name and not several) else [request.precision]
    parts += [] if name or request.inputs == "image" else [request.inputs]
    return "-".join(parts)


def make_reference(options: dict[str, Any], checkpoint: Path, model: Musiq) -> Reference:
    """The original's scores of the images that were asked for."""
    from .check import images
    from .exporter import Reference

    spec, folder, most = model.spec, options["images"], options["max_images"]
    if folder is None:
        chosen, called = images.generated(spec.height, spec.width), "generated"
    else:
        chosen, called = images.read(folder, spec.height, spec.width, most), folder.name
    return Reference(model, checkpoint.name, files.sha256(checkpoint), chosen, called)


if __name__ == "__main__":
    main()
