"""What an ONNX file says of itself in plain words, so that a program without this package can use it.

The keys are those of docs/onnx-files.md; what this package itself reads is in `Feed.metadata`.
"""

from __future__ import annotations

from ..request import EVERY_PATCHES, Request, feed

RESIZES = {
    "native": "the image at its own size",
    "cover": "the image resized to cover that size, aspect kept, and the middle cropped",
    "longer": "a longer side over N shrunk to N, aspect kept, each pixel the mean of the area that it covers",
    "shorter": "a shorter side over N shrunk to N, aspect kept, each pixel the mean of the area that it covers",
}
"""By the kind of a policy, what is done to an image before; others are named alone."""


def in_words(request: Request) -> dict[str, str]:
    """The entries for the file's metadata, beside the Spec."""
    spec = request.model.spec
    policy = spec.resize or ("native" if spec.any_size else "cover")
    kind = policy.partition("=")[0]
    said = "unknown" if spec.score_range is None else "{:g}..{:g}".format(*spec.score_range)
    return {
        "input.name": ", ".join(feed(request).shapes()),
        "input.layout": _layout(request),
        "input.range": _values(request),
        "input.size": "any, one size in a call" if spec.any_size else f"{spec.width}x{spec.height} (width x height)",
        "input.resize": f"{policy}: {RESIZES[kind]}" if kind in RESIZES else policy,
        "output.name": "score" if spec.outputs == 1 else "score, shares",
        "output.layout": f"float32 (N){f', (N, {spec.outputs})' if spec.outputs > 1 else ''}",
        "output.range": said,
        "output.target": spec.target,
    }


def _layout(request: Request) -> str:
    if request.inputs in EVERY_PATCHES:
        return "of the 32x32 patches that musiq.patches cuts"
    return "float32 (N, 3, h, w), RGB" if request.inputs == "pyramid" else "uint8 (N, H, W, 3), RGB"


def _values(request: Request) -> str:
    if request.inputs == "image":
        return "0..255, as decoded"
    mean, std = (
        ", ".join(f"{value:g}" for value in values) for values in (request.model.spec.mean, request.model.spec.std)
    )
    return f"(value / 255 - mean) / std, mean {mean}, std {std}"
