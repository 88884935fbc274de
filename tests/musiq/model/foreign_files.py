"""Checkpoint files of the foreign layouts, of weights that their names decide."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from musiq.model.foreign_layouts import BACKBONE, LAYOUTS, STACKED_SCALES, TRANSFORMER, Layout
from musiq.presets import PRESETS
from musiq.spec import Scale
from tests.recipe import flax_weight, torch_weight

CLASSIC, FLAX, PYIQA = LAYOUTS


def shapes_of(layout: Layout, **changes: Any) -> dict[str, tuple[int, ...]]:
    """What a checkpoint of a layout holds, its preset changed in some fields."""
    spec = {"classic": "resnet50-classic", "flax": "musiq", "pyiqa": "musiq-pyiqa"}[layout.name]
    return {entry.theirs: entry.shape for entry in layout.entries(dataclasses.replace(PRESETS[spec], **changes))}


def classic_file(path: Path) -> Path:
    backbone: dict[str, torch.Tensor] = {}
    transformer: dict[str, torch.Tensor] = {}
    for name, shape in shapes_of(CLASSIC).items():
        if name == STACKED_SCALES:
            for which in ("org", "1", "2"):
                part = f"transformer.encoder.scale_{which}_embedding"
                transformer[part] = torch.from_numpy(torch_weight(f"transformer.{part}", (1, 384, 1, 1)))
        elif name.startswith(BACKBONE):
            bare = name.removeprefix(BACKBONE)
            backbone[bare] = torch.from_numpy(torch_weight(f"backbone.{bare}", shape))
        else:
            bare = name.removeprefix(TRANSFORMER)
            transformer[bare] = torch.from_numpy(torch_weight(f"transformer.{bare}", shape))
    torch.save({"model_backbone_state_dict": backbone, "model_transformer_state_dict": transformer}, path)
    return path


def pyiqa_file(path: Path, outputs: int, under: str | None = None) -> Path:
    state = {
        name: torch.from_numpy(torch_weight(name, shape)) for name, shape in shapes_of(PYIQA, outputs=outputs).items()
    }
    torch.save({under: state} if under else state, path)
    return path


def flax_file(path: Path, variant: str) -> Path:
    changes: dict[str, Any] = {"outputs": 10} if variant == "10" else {}
    if variant == "single":
        changes = {"scales": (Scale(),), "scale_embeddings": 1}
    np.savez(path, **{name: flax_weight(name, shape) for name, shape in shapes_of(FLAX, **changes).items()})
    return path


def damaged(path: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """pyiqa's layout with something changed."""
    state = {name: torch.from_numpy(torch_weight(name, shape)) for name, shape in shapes_of(PYIQA).items()}
    change(state)
    torch.save(state, path)
    return path
