"""A checkpoint of a preset with fixed random weights, for benchmarks where there are none that were trained.

`python -m musiq_bench.profiling.random_checkpoint musiq musiq.safetensors` writes one. Latency does not depend on weights;
these are large enough that images differ in score, so that what an export does to scores can be seen.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from musiq.errors import MusiqError, check_installed
from musiq.presets import PRESETS
from musiq.terminal import Command

if TYPE_CHECKING:
    from musiq.model.network import Musiq

GAIN = 2.0
"""Times the standard deviation that keeps a layer's outputs as large as its inputs."""


def random_model(preset: str) -> Musiq:
    """A model of `preset`, one of `musiq.presets.PRESETS`, whose weights are the same each time."""
    import torch

    from musiq.model.network import Musiq

    model = Musiq(PRESETS[preset]).eval()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.startswith("embed."):
                value.normal_(0, 1, generator=draw)
            elif value.ndim > 1:
                value.normal_(0, GAIN / math.sqrt(math.prod(value.shape[1:])), generator=draw)
            elif name.endswith("bias"):
                value.normal_(0, 0.05, generator=draw)
            else:  # of a norm: with 1 a trunk of batch norms, whose statistics are those of none, would leave fp16's range
                value.normal_(0.7, 0.1, generator=draw)
    return model


@click.command(
    cls=Command,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=f"PRESET is one of {', '.join(PRESETS)}.",
)
@click.argument("preset", metavar="PRESET", type=click.Choice(list(PRESETS)))
@click.argument("file", metavar="FILE.safetensors", type=click.Path(dir_okay=False, path_type=Path))
def main(preset: str, file: Path) -> None:
    """Write FILE.safetensors, a checkpoint of PRESET with fixed random weights."""
    if file.suffix != ".safetensors":
        raise MusiqError(f"{file} would be a safetensors file: give a name that ends in .safetensors.")
    needed = ("torch", "torchvision", "safetensors", "einops")
    check_installed(needed, "A checkpoint is made with PyTorch and", "train")
    from musiq.model import checkpoint

    checkpoint.save(random_model(preset), file)
    click.echo(file)


if __name__ == "__main__":
    main()
