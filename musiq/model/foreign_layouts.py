"""Converts foreign checkpoints: which of their tensors becomes which of ours, and how.

Three layouts are known: the published PyTorch reimplementation with a ResNet-50 trunk ("classic", two state dicts), pyiqa's
("pyiqa", one state dict) and the original Flax weights ("flax", an .npz). Each is a list of `Entry` made from the Spec, so
that a missing, surplus or misshapen tensor can be named with what was expected.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod

from torch import Tensor, nn

from musiq.errors import MusiqError
from musiq.presets import PRESETS
from musiq.spec import PATCH, Scale, Spec

Shape = tuple[int, ...]
CELLS = PATCH // 4  # rows and columns of a patch where the trunk flattens it: two strides of 2


@dataclass(frozen=True)
class Entry:
    """One tensor of a foreign checkpoint and what becomes of it.

    Attributes:
        ours: The name in the state dict of `Musiq`.
        theirs: The name in the foreign checkpoint.
        shape: Its shape there.
        view: What it is viewed as before its axes are permuted; None for `shape`.
        order: How its axes are permuted; None for not at all.
    """

    ours: str
    theirs: str
    shape: Shape
    view: Shape | None = None
    order: Shape | None = None

    def take(self, value: Tensor, ours: Shape) -> Tensor:
        value = value.reshape(self.view or self.shape)
        if self.order:
            value = value.permute(self.order)
        return value.reshape(ours).contiguous()


@dataclass(frozen=True)
class Layout:
    """One kind of foreign checkpoint.

    Attributes:
        name: What errors call it.
        starts: Of its tensors' names, by which a checkpoint is known to be of this layout; no other's begin like the first.
        spec: The Spec of a checkpoint, from the shapes of its tensors where models of this layout differ.
        entries: What a checkpoint of that Spec must hold.
    """

    name: str
    starts: tuple[str, ...]
    spec: Callable[[Mapping[str, Tensor]], Spec]
    entries: Callable[[Spec], Iterator[Entry]]

    def owns(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether a checkpoint with these tensors is of this layout."""
        return any(name.startswith(self.starts) for name in tensors)


def convert(layout: Layout, tensors: Mapping[str, Tensor], model: nn.Module, spec: Spec) -> dict[str, Tensor]:
    """The state dict of `model` from the tensors of a foreign checkpoint.

    Args:
        layout: The checkpoint's.
        tensors: Its tensors by their own names.
        model: Made from `spec`; what it holds is only asked for its shapes.
        spec: `layout.spec(tensors)`, at whatever image size.

    Raises:
        MusiqError: Tensors are missing, surplus or misshapen; each is named (the first few of many).
    """
    entries = list(layout.entries(spec))
    check_names({entry.theirs: entry.shape for entry in entries}, tensors, f"the {layout.name} layout")
    ours = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    return {entry.ours: entry.take(tensors[entry.theirs], ours[entry.ours]) for entry in entries}


def check_names(expected: Mapping[str, Shape], found: Mapping[str, Tensor], what: str) -> None:
    """Raise MusiqError unless `found` has exactly the names and shapes `expected`."""
    problems = [f"missing {name} {list(shape)}" for name, shape in expected.items() if name not in found]
    problems += [f"surplus {name} {list(value.shape)}" for name, value in found.items() if name not in expected]
    problems += [
        f"{name} is {list(found[name].shape)}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in found and not _same_shape(tuple(found[name].shape), shape)
    ]
    if problems:
        more = f"; and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise MusiqError(
            f"The checkpoint does not fit {what}: {'; '.join(problems[:4])}{more}. "
            "Give the complete, unmodified file, or one of another model."
        )


def _same_shape(found: Shape, expected: Shape) -> bool:
    """Whether a shape is the expected one; of a vector also (1, 1, 1, C), as Flax stores some norm scales."""
    is_vector = len(expected) == 1 and found[-1:] == expected and prod(found) == expected[0]
    return found == expected or is_vector


# --- the published PyTorch reimplementation, ResNet-50 trunk ---------------------------------------------------------

BACKBONE, TRANSFORMER = "model_backbone_state_dict.", "model_transformer_state_dict."


def _classic_entries(spec: Spec) -> Iterator[Entry]:
    import torchvision

    d = spec.dim
    for name, value in torchvision.models.resnet50(weights=None).state_dict().items():
        if not name.startswith("fc."):
            yield Entry(f"trunk.net.{name}", BACKBONE + name, tuple(value.shape))
    yield Entry("trunk.project.weight", f"{TRANSFORMER}conv_enc.weight", (d, 2048, 1, 1))
    yield Entry("trunk.project.bias", f"{TRANSFORMER}conv_enc.bias", (d,))
    encoder = f"{TRANSFORMER}transformer.encoder."
    yield Entry("embed.position", f"{encoder}pos_embedding", (1, spec.position_grid, spec.position_grid, d))
    yield Entry("embed.class_token", f"{encoder}cls_token", (1, 1, d))
    # Stored apart, stacked by `stack_scales`; the last one is never used but kept, so that nothing is lost.
    yield Entry("embed.scale", STACKED_SCALES, (3, d))
    for i in range(spec.layers):
        yield from _classic_layer(spec, f"layers.{i}.", f"{encoder}layers.{i}.")
    yield Entry("head.0.weight", f"{TRANSFORMER}projection.0.weight", (spec.head_hidden, d))
    yield Entry("head.2.weight", f"{TRANSFORMER}projection.2.weight", (spec.outputs, spec.head_hidden))


def _classic_layer(spec: Spec, ours: str, theirs: str) -> Iterator[Entry]:
    d, inner = spec.dim, spec.heads * spec.head_dim
    for name, other in (("query", "W_Q"), ("key", "W_K"), ("value", "W_V")):
        yield from _same(f"{ours}attention.{name}", f"{theirs}self_attn.{other}", (inner, d))
    yield from _same(f"{ours}attention.out", f"{theirs}self_attn.linear", (d, inner))
    for name, other, shape in (("mlp.0", "conv1", (spec.mlp_dim, d)), ("mlp.2", "conv2", (d, spec.mlp_dim))):
        yield from _same(f"{ours}{name}", f"{theirs}pos_ffn.{other}", (*shape, 1))
    for k in (1, 2):
        yield from _same(f"{ours}norm{k}", f"{theirs}layer_norm{k}", (d,))


STACKED_SCALES = f"{TRANSFORMER}transformer.encoder.scale_{{org,1,2}}_embedding"


def stack_scales(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The classic layout with its three scale embeddings, each (1, D, 1, 1), as one tensor (3, D)."""
    import torch

    parts = [f"{TRANSFORMER}transformer.encoder.scale_{which}_embedding" for which in ("org", "1", "2")]
    if any(part not in tensors for part in parts):
        return tensors
    rest = {name: value for name, value in tensors.items() if name not in parts}
    return {**rest, STACKED_SCALES: torch.stack([tensors[part].flatten() for part in parts])}


def _classic_spec(tensors: Mapping[str, Tensor]) -> Spec:
    return dataclasses.replace(
        PRESETS["resnet50-classic"],
        score_range=(1.0, 5.0),
        target="KonIQ-10k mean rating (1-5)",
        source="published PyTorch reimplementation (ResNet-50 trunk)",
    )


# --- pyiqa -----------------------------------------------------------------------------------------------------------


def _pyiqa_entries(spec: Spec) -> Iterator[Entry]:
    d, wide = spec.dim, 4 * spec.trunk_channels
    yield from _patch_trunk(spec, "", "block1.", ".weight", ".weight", ".bias", lambda shape: (shape, None))
    yield Entry(
        "trunk.dense.weight", "embedding.weight", (d, CELLS * CELLS * wide), (d, CELLS, CELLS, wide), (0, 3, 1, 2)
    )
    yield Entry("trunk.dense.bias", "embedding.bias", (d,))
    encoder = "transformer_encoder."
    yield Entry("embed.class_token", f"{encoder}cls", (1, 1, d))
    yield Entry("embed.position", f"{encoder}posembed_input.position_emb", (1, spec.position_grid**2, d))
    yield Entry("embed.scale", f"{encoder}scaleembed_input.scale_emb", (spec.scale_embeddings, d))
    yield from _same("norm", f"{encoder}encoder_norm", (d,))
    inner = spec.heads * spec.head_dim
    for i in range(spec.layers):
        ours, theirs = f"layers.{i}.", f"{encoder}transformer.encoderblock_{i}."
        for name in ("query", "key", "value"):
            yield from _same(f"{ours}attention.{name}", f"{theirs}attention.{name}", (inner, d))
        yield from _same(f"{ours}attention.out", f"{theirs}attention.out", (d, inner))
        yield from _same(f"{ours}norm1", f"{theirs}norm1", (d,))
        yield from _same(f"{ours}norm2", f"{theirs}norm2", (d,))
        yield from _same(f"{ours}mlp.0", f"{theirs}mlp.fc1", (spec.mlp_dim, d))
        yield from _same(f"{ours}mlp.2", f"{theirs}mlp.fc2", (d, spec.mlp_dim))
    yield from _same("head", "head" if spec.outputs == 1 else "head.0", (spec.outputs, d))


def _same(ours: str, theirs: str, shape: Shape) -> Iterator[Entry]:
    """A weight of `shape` and its bias, both stored as ours."""
    yield Entry(f"{ours}.weight", f"{theirs}.weight", shape)
    yield Entry(f"{ours}.bias", f"{theirs}.bias", shape[:1])


def _pyiqa_spec(tensors: Mapping[str, Tensor]) -> Spec:
    ten = "head.0.weight" in tensors
    outputs = int(tensors["head.0.weight" if ten else "head.weight"].shape[0])
    return _paper_targets(dataclasses.replace(PRESETS["musiq-pyiqa"].at_any_size(), outputs=outputs, source="pyiqa"))


def _patch_trunk(
    spec: Spec,
    root: str,
    block: str,
    kernel: str,
    scale: str,
    bias: str,
    stored: Callable[[Shape], tuple[Shape, Shape | None]],
) -> Iterator[Entry]:
    """The patch trunk's convolutions and norms; `stored` gives a kernel's shape in their axis order and how it turns."""
    narrow, wide = spec.trunk_channels, 4 * spec.trunk_channels
    for name, conv, norm, shape in (
        ("root", f"{root}conv_root", f"{root}gn_root", (narrow, 3, 7, 7)),
        ("1", f"{block}conv1", f"{block}gn1", (narrow, narrow, 1, 1)),
        ("2", f"{block}conv2", f"{block}gn2", (narrow, narrow, 3, 3)),
        ("3", f"{block}conv3", f"{block}gn3", (wide, narrow, 1, 1)),
        ("shortcut", f"{block}conv_proj", f"{block}gn_proj", (wide, narrow, 1, 1)),
    ):
        joint = "_" if len(name) > 1 else ""
        theirs, order = stored(shape)
        yield Entry(f"trunk.conv{joint}{name}.weight", conv + kernel, theirs, None, order)
        yield Entry(f"trunk.norm{joint}{name}.weight", norm + scale, shape[:1])
        yield Entry(f"trunk.norm{joint}{name}.bias", norm + bias, shape[:1])


# --- the original Flax weights ---------------------------------------------------------------------------------------

FLAX = "opt/target/"


def _flax_entries(spec: Spec) -> Iterator[Entry]:
    d, wide = spec.dim, 4 * spec.trunk_channels

    def conv(shape: Shape) -> tuple[Shape, Shape]:
        o, i, h, w = shape
        return (h, w, i, o), (3, 2, 0, 1)

    yield from _patch_trunk(spec, FLAX, f"{FLAX}block1/unit1/", "/kernel", "/scale", "/bias", conv)
    cells = (CELLS, CELLS, wide, d)
    yield Entry("trunk.dense.weight", f"{FLAX}embedding/kernel", (CELLS * CELLS * wide, d), cells, (3, 2, 0, 1))
    yield Entry("trunk.dense.bias", f"{FLAX}embedding/bias", (d,))
    encoder = f"{FLAX}Transformer/"
    yield Entry("embed.class_token", f"{encoder}cls", (1, 1, d))
    yield Entry("embed.position", f"{encoder}posembed_input/pos_embedding", (1, spec.position_grid**2, d))
    yield Entry("embed.scale", f"{encoder}scaleembed_input/scale_embedding", (1, spec.scale_embeddings, d))
    yield from _flax_norm("norm", f"{encoder}encoder_norm", d)
    for i in range(spec.layers):
        yield from _flax_layer(spec, f"layers.{i}.", f"{encoder}encoderblock_{i}/")
    yield from _flax_dense("head", f"{FLAX}head", d, spec.outputs)


def _flax_layer(spec: Spec, ours: str, theirs: str) -> Iterator[Entry]:
    d, inner, heads = spec.dim, spec.heads * spec.head_dim, (spec.heads, spec.head_dim)
    attention = f"{theirs}{ATTENTION}"
    for name in ("query", "key", "value"):
        yield Entry(f"{ours}attention.{name}.weight", f"{attention}{name}/kernel", (d, *heads), (d, inner), (1, 0))
        yield Entry(f"{ours}attention.{name}.bias", f"{attention}{name}/bias", heads)
    yield Entry(f"{ours}attention.out.weight", f"{attention}out/kernel", (*heads, d), (inner, d), (1, 0))
    yield Entry(f"{ours}attention.out.bias", f"{attention}out/bias", (d,))
    yield from _flax_norm(f"{ours}norm1", f"{theirs}LayerNorm_0", d)
    yield from _flax_norm(f"{ours}norm2", f"{theirs}LayerNorm_2", d)
    yield from _flax_dense(f"{ours}mlp.0", f"{theirs}MlpBlock_3/Dense_0", d, spec.mlp_dim)
    yield from _flax_dense(f"{ours}mlp.2", f"{theirs}MlpBlock_3/Dense_1", spec.mlp_dim, d)


def _flax_norm(ours: str, theirs: str, size: int) -> Iterator[Entry]:
    yield Entry(f"{ours}.weight", f"{theirs}/scale", (size,))
    yield Entry(f"{ours}.bias", f"{theirs}/bias", (size,))


def _flax_dense(ours: str, theirs: str, inputs: int, outputs: int) -> Iterator[Entry]:
    """A dense layer, whose kernel has its output axis last."""
    yield Entry(f"{ours}.weight", f"{theirs}/kernel", (inputs, outputs), None, (1, 0))
    yield Entry(f"{ours}.bias", f"{theirs}/bias", (outputs,))


ATTENTION = "MultiHeadDotProductAttention_1/"


def normalise_flax(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The model's own tensors (not the optimiser's), the attention module under the one of its two names."""
    kept = {name: value for name, value in tensors.items() if name.startswith(FLAX)}
    return {name.replace("SelfAttention_1/", ATTENTION): value for name, value in kept.items()}


def _flax_spec(tensors: Mapping[str, Tensor]) -> Spec:
    spec = dataclasses.replace(PRESETS["musiq"].at_any_size(), source="original Flax weights")
    head = tensors.get(f"{FLAX}head/kernel")
    if head is not None and head.ndim == 2:
        spec = dataclasses.replace(spec, outputs=int(head.shape[1]))
    embedding = tensors.get(f"{FLAX}Transformer/scaleembed_input/scale_embedding")
    if embedding is not None and tuple(embedding.shape[:2]) == (1, 1):  # the single-scale variant: the native image
        spec = dataclasses.replace(spec, scales=(Scale(),), scale_embeddings=1)
    return _paper_targets(spec)


def _paper_targets(spec: Spec) -> Spec:
    """The published MUSIQ weights: ten outputs rate on AVA's scale, one output on a MOS scale of 0-100."""
    if spec.outputs == 10:
        return dataclasses.replace(spec, score_range=(1.0, 10.0), target="AVA mean rating (1-10)")
    return dataclasses.replace(spec, score_range=(0.0, 100.0), target="MOS (0-100) of the weights' own dataset")


LAYOUTS = (
    Layout("classic", (BACKBONE, TRANSFORMER), _classic_spec, _classic_entries),
    Layout("flax", (FLAX,), _flax_spec, _flax_entries),
    Layout("pyiqa", ("conv_root.", "transformer_encoder.", "block1."), _pyiqa_spec, _pyiqa_entries),
)
