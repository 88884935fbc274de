"""The options of `musiq-export`, and what they ask for: batch sizes, limits, opset, images, names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from musiq import files
from musiq.errors import MusiqError

from .builders.tensorrt import parse_gpus
from .check import images
from .exporter import Reference
from .int8 import calibration
from .request import LIMITS, BatchRange, EngineOptions, Format, Int8Options, Limits, Request

if TYPE_CHECKING:
    from musiq.model.network import Musiq

MOST_IMAGES = 65536
"""In a batch: beyond what any memory holds."""


@dataclass(frozen=True)
class ExportOptions:
    """The command's options, parsed; None is for one that was not given and has a default of its own."""

    checkpoint: Path | None
    formats: tuple[str, ...]
    height: int | None
    width: int | None
    precisions: tuple[str, ...]
    inputs: str
    tune_for: str | None
    batch: BatchRange
    opset: int | None
    out: Path
    name: str | None
    images: Path | None
    max_images: int
    max_difference: float | None
    min_srcc: float | None
    calibration_images: Path | None
    weight_bits: int | None
    force: bool
    engine: EngineOptions
    unverified: Path | None
    folder: Path | None

    @classmethod
    def parse(
        cls,
        batch: str,
        batch_opt: int | None,
        gpus: str | None,
        tf32: bool,
        compatible: bool,
        timing_cache: Path | None,
        **others: Any,
    ) -> ExportOptions:
        """From what click gives. Raises MusiqError for batch sizes and GPUs that there are not."""
        engine = EngineOptions(parse_gpus(gpus) if gpus else (), tf32, compatible, timing_cache)
        return cls(batch=parse_batch(batch, batch_opt), engine=engine, **others)

    def limits(self, default: Limits) -> Limits:
        """The default limits of a precision, changed as asked."""
        if self.max_difference is not None:
            default = replace(default, difference=self.max_difference)
        if self.min_srcc is not None:
            default = replace(default, srcc=self.min_srcc)
        return default

    def target(self) -> str:
        """What to tune for: what was asked, else the kind of machine that this is, on which the file is checked too."""
        return self.tune_for or ("gpu" if cuda_at_hand() else "cpu")

    def opset_for(self, precision: str) -> int:
        """18 unless asked; bf16 convolutions exist from opset 22 on."""
        bf16 = precision == "bf16"
        opset = self.opset or (22 if bf16 else 18)
        if bf16 and opset < 22:
            raise MusiqError(
                f"bf16 needs opset 22 or newer, not {opset}: earlier convolutions do not take it. Leave out --opset."
            )
        return opset

    def int8(self, height: int, width: int, warn: Callable[[str], None]) -> Int8Options:
        """What int8 needs beyond the request: real images, and the limits that its own measuring keeps to."""
        if self.calibration_images is None:
            raise calibration.missing()
        read = calibration.read(self.calibration_images, height, width, warn)
        return Int8Options(read, self.limits(LIMITS["int8"]), self.force, self.weight_bits)

    def requests(self, model: Musiq, warn: Callable[[str], None]) -> Iterator[Request]:
        """One for each precision, of a simplified model."""
        target = self.target()
        for precision in self.precisions:
            int8 = self.int8(model.spec.height, model.spec.width, warn) if precision == "int8" else None
            opset = self.opset_for(precision)
            yield Request(model, precision, self.inputs, self.batch, opset, self.engine, int8, target)

    def reference(self, checkpoint: Path, model: Musiq) -> Reference:
        """The original, with the images that were asked for."""
        height, width = model.spec.height, model.spec.width
        if self.images is None:
            chosen, source = images.generated(height, width), "generated"
        else:
            chosen, source = images.read(self.images, height, width, self.max_images), self.images.name
        return Reference(model, checkpoint.name, files.sha256(checkpoint), chosen, source)

    def path(self, request: Request, format: Format) -> Path:
        """The artifact's; in a repository the version folder says whose it is, and Triton has its name for it."""
        name = file_name(self.name, request, len(self.precisions) > 1)
        return (
            self.out / name / "1" / f"model{format.suffix}" if format.repository else self.out / (name + format.suffix)
        )


def parse_batch(text: str, best: int | None = None) -> BatchRange:
    """ "4" is static; "1..32" dynamic; "1.." without limit; the fastest is 8, or nearest to it, unless `best` is given."""
    smallest, dots, largest = text.partition("..")
    try:
        low = int(smallest)
        high = int(largest) if largest else (0 if dots else low)
    except ValueError:
        low = high = -1
    if low < 1 or (high and high < low) or high < 0 or max(low, high) > MOST_IMAGES:
        raise MusiqError(
            f"--batch {text!r} is no batch size; expected e.g. 1, 8, 1..32 or 1.., and at most {MOST_IMAGES}."
        )
    most = high or MOST_IMAGES
    if best is not None and not low <= best <= most:
        raise MusiqError(f"--batch-opt is {best}; expected one of --batch's sizes, {text}.")
    return BatchRange(low, high, max(low, min(best or 8, most)))


def cuda_at_hand() -> bool:
    """Whether PyTorch sees a GPU."""
    import torch

    return torch.cuda.is_available()


def file_name(name: str | None, request: Request, several: bool = False) -> str:
    """Without the ending; a name that the user chose is kept, but for the precision where `several` are made."""
    spec = request.model.spec
    parts = [name or f"{spec.preset}-{spec.width}x{spec.height}"]
    parts += [] if request.precision == "fp32" or (name and not several) else [request.precision]
    parts += [] if name or request.inputs == "image" else [request.inputs]
    return "-".join(parts)
