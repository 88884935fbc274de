"""The presets: the Specs that models are made from, under their names."""

from __future__ import annotations

from musiq.errors import MusiqError
from musiq.spec import Scale, Spec

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # torchvision.models.ResNet50_Weights.IMAGENET1K_V1.transforms()
IMAGENET_STD = (0.229, 0.224, 0.225)

_PAPER_SCALES = (Scale(224, embedding=0), Scale(384, embedding=1), Scale(embedding=2))
_WIDTH_SCALES = (Scale(embedding=0), Scale(384, "width", embedding=1), Scale(224, "width", embedding=2))

PRESETS: dict[str, Spec] = {
    # What train.py trains unless told otherwise.
    "resnet50": Spec("resnet50", "resnet50", _WIDTH_SCALES, "cubic", mean=IMAGENET_MEAN, std=IMAGENET_STD),
    # The published PyTorch reimplementation, with its own ways: post-norm, heads as wide as the model, the smallest scale
    # cut to 160 rows and given the middle one's embedding.
    "resnet50-classic": Spec(
        "resnet50-classic",
        "resnet50",
        (Scale(embedding=0), Scale(384, "width", embedding=1), Scale(224, "width", rows=160, embedding=1)),
        "cubic",
        rounding="floor",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        head_dim=384,
        mlp_dim=384,
        norm="post",
        norm_eps=1e-12,
        position_rule="float64",
        head_hidden=1152,
    ),
    # The paper's own model (Flax weights), and its PyTorch port with another kernel, GELU and deviation.
    "musiq": Spec(
        "musiq", "patch", _PAPER_SCALES, "gaussian", rounding="nearest-float32", gelu="tanh", position_rule="float32"
    ),
    "musiq-pyiqa": Spec("musiq-pyiqa", "patch", _PAPER_SCALES, "cubic", unbiased_std=True, position_rule="float32"),
    # For small machines: a few times as fast as the paper's on a CPU.
    "lite": Spec(
        "lite",
        "timm:tf_efficientnet_lite0",
        (Scale(embedding=0), Scale(384, embedding=1)),
        "cubic",
        height=512,
        width=512,
        trunk_strides=(16, 32),
        dim=128,
        layers=1,
        heads=2,
        mlp_dim=256,
    ),
    # Small enough to train on a laptop's CPU in minutes: the demo's and the tests' model.
    "tiny": Spec(
        "tiny",
        "patch",
        (Scale(embedding=0), Scale(128, embedding=1), Scale(96, embedding=2)),
        "cubic",
        height=192,
        width=256,
        trunk_channels=16,
        trunk_groups=8,
        dim=96,
        layers=3,
        heads=3,
        head_dim=32,
        mlp_dim=192,
    ),
}


def preset(name: str, height: int | None = None, width: int | None = None) -> Spec:
    """The Spec of a named preset.

    Args:
        name: One of PRESETS.
        height: Pixels of the images' height; None for the preset's own.
        width: Pixels of the images' width; None for the preset's own.

    Raises:
        MusiqError: There is no such preset, or a side is smaller than one patch of 32 pixels.
    """
    if name not in PRESETS:
        raise MusiqError(f"There is no preset {name!r}; the presets are {', '.join(PRESETS)}.")
    return PRESETS[name].at(height, width)
