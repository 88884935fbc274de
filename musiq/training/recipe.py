"""Recipes, which are all that decides a run's weights besides the images: options, presets' defaults, recipe files."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from musiq.errors import MusiqError
from musiq.presets import PRESETS
from musiq.spec import FIXED_SIDES, SIDES, STRIDES, Spec
from musiq.terminal import FiniteRange
from musiq.training.losses import MARGIN, NAMES

# What a preset needs so that nothing else has to be given. The tiny one's are tuned on the demo's images; the others
# follow common practice for a pretrained trunk at these image sizes.
DEFAULTS: dict[str, dict[str, Any]] = {
    "resnet50": {"epochs": 30, "batch_size": 8, "lr": 5e-5, "trunk_weights": "download", "loss": "l1"},
    "resnet50-classic": {"epochs": 30, "batch_size": 8, "lr": 5e-5, "trunk_weights": "download", "loss": "l1"},
    "musiq": {"epochs": 30, "batch_size": 16, "lr": 1e-4, "trunk_weights": "none", "loss": "l1"},
    "musiq-pyiqa": {"epochs": 30, "batch_size": 16, "lr": 1e-4, "trunk_weights": "none", "loss": "l1"},
    "lite": {"epochs": 30, "batch_size": 16, "lr": 3e-4, "trunk_weights": "download", "loss": "l1"},
    "tiny": {"epochs": 6, "batch_size": 16, "lr": 1e-3, "trunk_weights": "none", "loss": "l1+ranking"},
}

REACHED = "reached"
"""The table of a recipe file that says what it reached; the rest are options."""


@dataclass(frozen=True)
class Recipe:
    """All that decides the weights of a run, besides the images. Saved in run.json and in checkpoints' notes.

    Attributes:
        preset: The model, a key of `musiq.presets.PRESETS`.
        start: A checkpoint to start from, or a published one's name, with a new head; None for none.
        height, width: Pixels of the images; others are resized to cover that and cropped.
        outputs: 1: a score; K > 1: the shares of the ratings 1..K.
        epochs: Passes over the training images.
        batch_size: Images in a step, over all processes.
        optimizer: "adamw", or "sgd" with momentum 0.9.
        lr: Peak learning rate.
        weight_decay: Of all weights but norms and biases.
        warmup: Part of all steps in which the learning rate rises, in [0, 1].
        clip: Largest norm of a gradient; 0: any.
        loss: See `musiq.training.losses.parse`.
        margin: Of the loss `ranking`, in standard deviations of the labels.
        flip: Whether half of the images are mirrored.
        seed: Of weights, order, flips, stochastic depth and a split that the labels do not give.
        trunk_weights: "none", "download" or a file, see `musiq.training.pretrained_trunk.load_trunk`.
        batch_norm: "frozen": those that came with weights keep their statistics; "trained": all follow the images.
        mixed_precision: "no", "bf16" or "fp16".
        scales: "pyramid": all of the preset's; "native": the image alone; None: those of `start`, else all.
        trunk_lr, head_lr: Factors of `lr` for the trunk and the head.
        layer_decay: Factor of `lr` from each transformer layer to the one before it, in (0, 1].
        ema: Decay of the running average of the weights that is scored and kept; 0: the weights themselves.
        drop_path: How often the last layer's residual branches are left out, in [0, 1).
        token_drop: Part of an image's tokens that is left out in training, in [0, 1).
        window: Part of each side of an image that what learns sees in training, in (0, 1].
        accumulate: Pieces in which a process's part of a batch passes.
        checkpointing: Whether activations are computed again in the backward pass.
        channels_last: Whether convolutions' weights are laid out with channels last.
        compile: Whether torch.compile compiles the model.
        trunk: "timm:NAME" in the place of the preset's; None for that.
        train_on: "train", or "train+val": no epoch is chosen then, the last one's weights are kept.
        fold: "2/5": the second of five folds of train and val validates; "": the splits as they are.
        freeze: The stride of the last of the trunk's maps that stays as it came, with all that it is made of; 0: none.
    """

    preset: str
    start: str | None
    height: int
    width: int
    outputs: int
    epochs: int
    batch_size: int
    optimizer: str
    lr: float
    weight_decay: float
    warmup: float
    clip: float
    loss: str
    margin: float
    flip: bool
    seed: int
    trunk_weights: str
    batch_norm: str
    mixed_precision: str
    # Those below have defaults because run folders of earlier versions lack them.
    scales: str | None = None
    trunk_lr: float = 1.0
    head_lr: float = 1.0
    layer_decay: float = 1.0
    ema: float = 0.0
    drop_path: float = 0.0
    token_drop: float = 0.0
    window: float = 1.0
    accumulate: int = 1
    checkpointing: bool = False
    channels_last: bool = False
    compile: bool = False
    trunk: str | None = None
    freeze: int = 0
    train_on: str = "train"
    fold: str = ""


RECIPE_FIELDS = tuple(field.name for field in dataclasses.fields(Recipe))


def recipe_from(options: Mapping[str, Any]) -> Recipe:
    """The recipe that a command's options ask for, completed by the preset's defaults where they are None.

    Args:
        options: Values by option; those that are no part of a recipe do not matter.

    Raises:
        MusiqError: A side is none that a model of a fixed size is made for, or options do not go together.
    """
    defaults, spec = DEFAULTS[options["preset"]], PRESETS[options["preset"]]
    values: dict[str, Any] = {
        name: defaults.get(name) if options[name] is None else options[name] for name in RECIPE_FIELDS
    }
    values["height"], values["width"] = values["height"] or spec.height, values["width"] or spec.width
    least, most = FIXED_SIDES
    if not all(least <= values[side] <= most for side in SIDES):
        raise MusiqError(
            f"A model for {values['width']}x{values['height']} images is not possible: each side needs at least {least} "
            f"pixels, one patch, and at most {most}. Give another --height and --width."
        )
    values["start"] = str(options["start"]) if options["start"] else None
    if values["trunk"] is not None:
        _check_trunk(spec, values["trunk"], values["start"])
        values["trunk_weights"] = options["trunk_weights"] or "download"
    if values["start"]:
        values["trunk_weights"] = "none"
    if values["freeze"] and values["trunk_weights"] == "none" and not values["start"]:
        raise MusiqError(
            f"--freeze {values['freeze']} would keep random weights: give --trunk-weights, or --start with a checkpoint."
        )
    if values["window"] < 1 and values["compile"]:
        raise MusiqError("--window and --compile exclude each other: each place would be compiled. Leave one out.")
    if values["fold"] and values["train_on"] != "train":
        raise MusiqError(
            f"--fold {values['fold']} says what validates, and with --train-on {values['train_on']} nothing does: give "
            "--train-on train, or leave --fold out."
        )
    if options["loss"] is None and options["outputs"] > 1:
        values["loss"] = "emd"
    if values["batch_norm"] == "auto":
        values["batch_norm"] = "trained" if values["trunk_weights"] == "none" and not values["start"] else "frozen"
    return Recipe(**values)


def _check_trunk(spec: Spec, trunk: str, start: str | None) -> None:
    if not dataclasses.replace(spec, trunk=trunk).timm_name:
        raise MusiqError(f"--trunk {trunk} is none of timm's; expected timm:NAME. The others come with their presets.")
    if start:
        raise MusiqError(f"--trunk {trunk} is for a new model; that of --start has its own. Leave one of them out.")


def by_preset(name: str) -> str:
    """The defaults of an option that differ among presets, for its help."""
    groups: dict[Any, list[str]] = {}
    for key, values in DEFAULTS.items():
        groups.setdefault(values[name], []).append(key)
    return "; ".join(f"{value} for {', '.join(keys)}" for value, keys in groups.items())


def read_config(context: click.Context, _: click.Parameter, path: Path | None) -> Path | None:
    """Make a recipe file's values the defaults of the command's options; those on the command line win.

    Raises MusiqError for a file that cannot be read, and for keys that are no options.
    """
    if path is None:
        return None
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise MusiqError(f"Cannot read the recipe {path}: {problem.strerror}. configs/ has some.") from problem
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise MusiqError(f"{path} is no TOML ({problem}); a recipe has lines such as lr = 0.001.") from problem
    known = {str(option.name): option for option in context.command.params if option.name != "config"}
    given = {key.replace("-", "_"): value for key, value in values.items() if key != REACHED}
    if unknown := sorted(set(given) - set(known)):
        raise MusiqError(f"{path}: there is no option {unknown[0]!r}; python train.py --help lists them.")
    for key, value in given.items():
        if known[key].multiple and not isinstance(value, list):
            given[key] = [value]
    context.default_map = {**(context.default_map or {}), **given}
    return path


FILE = click.Path(exists=False, dir_okay=False, path_type=Path)
FACTOR = FiniteRange(0)

OPTIONS = (
    click.option("--preset", type=click.Choice(list(PRESETS)), default="resnet50", help="The model."),
    click.option(
        "--start",
        type=FILE,
        help="Start from this checkpoint (of any known layout), or a published one by its name (see musiq-score "
        "--list-models), with a new head.  [default: none]",
    ),
    click.option(
        "--trunk",
        metavar="timm:NAME",
        help="A convolutional network of timm's in the place of the preset's trunk.  [default: the preset's]",
    ),
    click.option(
        "--trunk-weights",
        metavar="FILE|download|none",
        help="Where the trunk starts: torchvision's or timm's .pth or .safetensors, or an .npz of its tensors.  "
        f"[default: {by_preset('trunk_weights')}; of --trunk download]",
    ),
    click.option(
        "--freeze",
        type=click.Choice(["0", *(str(strides[0]) for strides in STRIDES if len(strides) == 1)]),
        default="0",
        callback=lambda _, __, value: int(value),
        help="Keep the trunk as it came up to its map of this stride: its weights, and the statistics of its batch norms.",
    ),
    click.option(
        "--height",
        type=int,
        help="Of the images; others are resized to cover and cropped.  [default: 768; lite: 512; tiny: 192]",
    ),
    click.option("--width", type=int, help="[default: 1024; lite: 512; tiny: 256]"),
    click.option(
        "--scales",
        type=click.Choice(["pyramid", "native"]),
        help="All of the preset's, or the image alone.  [default: those of --start, else pyramid]",
    ),
    click.option(
        "--outputs",
        type=click.Choice(["1", "5", "10"]),
        default="1",
        callback=lambda _, __, value: int(value),
        help="1: a score; more: the shares c1..cK.",
    ),
    click.option(
        "--train-on",
        type=click.Choice(["train", "train+val"]),
        default="train",
        help="train+val: on the validation images too; no epoch is chosen, the last one's weights become best.safetensors.",
    ),
    click.option(
        "--fold",
        metavar="K/N",
        default="",
        help="Deal train and val anew into N folds, the same each time: fold K validates, the others train.  "
        "[default: the splits as they are]",
    ),
    click.option("--epochs", type=click.IntRange(1), help=f"[default: {by_preset('epochs')}]"),
    click.option(
        "--batch-size",
        type=click.IntRange(1),
        help=f"Images in a step, over all GPUs.  [default: {by_preset('batch_size')}]",
    ),
    click.option(
        "--accumulate",
        type=click.IntRange(1),
        default=1,
        help="Pass a GPU's part of a batch in so many pieces: the same step in less memory. Losses over pairs need their "
        "outputs first, a second forward pass.",
    ),
    click.option("--lr", type=FiniteRange(0, min_open=True), help=f"Peak rate.  [default: {by_preset('lr')}]"),
    click.option("--trunk-lr", type=FACTOR, default=1.0, help="Factor of --lr for the trunk."),
    click.option("--head-lr", type=FACTOR, default=1.0, help="Factor of --lr for the head."),
    click.option(
        "--layer-decay",
        type=FiniteRange(0, 1, min_open=True),
        default=1.0,
        help="Factor of --lr from each transformer layer to the one before it, down to the trunk.",
    ),
    click.option("--optimizer", type=click.Choice(["adamw", "sgd"]), default="adamw", help="sgd has momentum 0.9."),
    click.option("--weight-decay", type=FiniteRange(0), default=0.01, help="Not of norms and biases."),
    click.option("--warmup", type=FiniteRange(0, 1), default=0.05, help="Part of all steps; a cosine to zero follows."),
    click.option("--clip", type=FiniteRange(0), default=1.0, help="Largest norm of a gradient; 0: any."),
    click.option(
        "--ema",
        type=FiniteRange(0, 1, max_open=True),
        default=0.0,
        help="Keep and score a running average of the weights with this decay, such as 0.999; 0: the weights.",
    ),
    click.option(
        "--drop-path",
        type=FiniteRange(0, 1, max_open=True),
        default=0.0,
        help="Stochastic depth: how often the last layer's branches are left out, earlier ones less.",
    ),
    click.option(
        "--token-drop",
        type=FiniteRange(0, 1, max_open=True),
        default=0.0,
        help="How many of an image's tokens are left out in training, drawn anew for each step.",
    ),
    click.option(
        "--window",
        type=FiniteRange(0, 1, min_open=True),
        default=1.0,
        help="In training, what is above --freeze sees a window of this part of each side, drawn anew for each piece of "
        "--accumulate; 1: everything.",
    ),
    click.option(
        "--loss",
        help=f"{', '.join(NAMES)} or l1+0.5*ranking and the like.  [default: {by_preset('loss')}; with shares emd]",
    ),
    click.option("--margin", type=FiniteRange(0), default=MARGIN, help="Of ranking, in the labels' deviations."),
    click.option("--flip/--no-flip", default=True, help="Mirror half of the images, anew in each epoch."),
    click.option(
        "--batch-norm",
        type=click.Choice(["auto", "frozen", "trained"]),
        default="auto",
        help="Statistics of a trunk's batch norms; auto and frozen keep those that came with weights.",
    ),
    click.option("--mixed-precision", type=click.Choice(["no", "bf16", "fp16"]), default="no"),
    click.option(
        "--checkpointing", is_flag=True, help="Compute activations again in the backward pass: slower in less memory."
    ),
    click.option("--channels-last", is_flag=True, help="Lay convolutions' weights out with channels last."),
    click.option("--compile", is_flag=True, help="By torch.compile: minutes at first, then faster on GPUs."),
    click.option("--seed", type=click.IntRange(0), default=0, help="Of weights, order, flips and a split not given."),
)


def recipe_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that make a `Recipe`, and --config."""
    for option in reversed(OPTIONS):
        command = option(command)
    return click.option(
        "--config",
        type=FILE,
        is_eager=True,
        callback=read_config,
        help="A recipe: a TOML file with options' names and values; the command line wins over it.  [default: none]",
    )(command)
