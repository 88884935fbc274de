"""The options of `musiq-export`, and what they ask for: batch sizes, limits, opset, images, names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from musiq import files
from musiq.errors import MusiqError
from musiq.runtimes.batching import PADDED_PATCHES, PATCHES
from musiq.spec import Spec

from .builders.tensorrt import parse_gpus
from .check import images
from .exporter import Reference
from .int8 import calibration
from .request import LIMITS, BatchRange, EngineOptions, Format, Images, Int8Options, Limits, Request
from .sizes import Size

if TYPE_CHECKING:
    from musiq.model.network import Musiq

MOST_IMAGES = 65536
"""In a batch: beyond what any memory holds."""

MOST_TOKENS = 2**20
"""Of an image: a thousand megapixels."""


@dataclass(frozen=True)
class ExportOptions:
    """The command's options, parsed; None is for one that was not given and has a default of its own."""

    checkpoint: Path | None
    formats: tuple[str, ...]
    size: Size
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
    tokens: tuple[int, int]
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
        size: str | None = None,
        height: int | None = None,
        width: int | None = None,
        inputs: str = "image",
        padded: bool = False,
        tokens: str | None = None,
        **others: Any,
    ) -> ExportOptions:
        """From what click gives. Raises MusiqError for sizes, batch sizes and GPUs that there are not."""
        engine = EngineOptions(parse_gpus(gpus) if gpus else (), tf32, compatible, timing_cache)
        asked = Size.parse(size, height, width)
        limits = parse_tokens(tokens, inputs, padded)
        inputs = PADDED_PATCHES if padded else inputs
        return cls(
            batch=parse_batch(batch, batch_opt), engine=engine, size=asked, inputs=inputs, tokens=limits, **others
        )

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

    def int8(self, spec: Spec, warn: Callable[[str], None]) -> Int8Options:
        """What int8 needs beyond the request: real images, and the limits that its own measuring keeps to."""
        if self.calibration_images is None:
            raise calibration.missing()
        read = calibration.read(self.calibration_images, spec.height, spec.width, warn, spec.resize)
        return Int8Options(read, self.limits(LIMITS["int8"]), self.force, self.weight_bits)

    def requests(self, model: Musiq, warn: Callable[[str], None]) -> Iterator[Request]:
        """One for each precision, of a simplified model."""
        target = self.target()
        for precision in self.precisions:
            int8 = self.int8(model.spec, warn) if precision == "int8" else None
            opset = self.opset_for(precision)
            yield Request(
                model, precision, self.inputs, self.batch, opset, self.engine, int8, target, tokens=self.tokens
            )

    def reference(self, checkpoint: Path, model: Musiq) -> Reference:
        """The original, with the images that were asked for."""
        spec, chosen, sources = model.spec, list[Images](), []
        if spec.any_size or self.images is None:
            chosen.extend(images.generated_sizes() if spec.any_size else images.generated(*spec.fixed_size))
            sources.append("generated")
        if self.images is not None:
            chosen.extend(images.read(self.images, spec.height, spec.width, self.max_images, spec.resize))
            sources.append(self.images.name)
        return Reference(model, checkpoint.name, files.sha256(checkpoint), chosen, ", ".join(sources))

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


def parse_tokens(text: str | None, inputs: str, padded: bool) -> tuple[int, int]:
    """The fewest and the most tokens of an image, the most 0 for no limit. Raises MusiqError for what is none of these, and
    for what goes with patches alone."""
    if text is None and not padded:
        return 1, 0
    if inputs != PATCHES:
        raise MusiqError(
            f"{'--padded' if padded else '--tokens'} is for --inputs patches, not for --inputs {inputs}. Leave it out."
        )
    smallest, dots, largest = (text or "1..").partition("..")
    low = int(smallest) if smallest.isdecimal() else 0
    high = low if not dots else 0 if not largest else int(largest) if largest.isdecimal() else -1
    if low < 1 or high == 1 or (high and high < low) or max(low, high) > MOST_TOKENS:
        raise MusiqError(
            f"--tokens {text!r} is no number of tokens; expected e.g. 16..4096 or 16.., with --padded also one number such "
            f"as 1024, and at most {MOST_TOKENS}."
        )
    if low == high and not padded:
        raise MusiqError(
            f"--tokens {text} alone is for images of exactly so many. Give --padded, which pads all to it, or a range."
        )
    return low, high


def cuda_at_hand() -> bool:
    """Whether PyTorch sees a GPU."""
    import torch

    return torch.cuda.is_available()


def file_name(name: str | None, request: Request, several: bool = False) -> str:
    """Without the ending; a name that the user chose is kept, but for the precision where `several` are made."""
    spec = request.model.spec
    parts = [name or f"{spec.preset}-{spec.size_name}"]
    parts += [] if request.precision == "fp32" or (name and not several) else [request.precision]
    parts += [] if name or request.inputs == "image" else [request.inputs]
    return "-".join(parts)
