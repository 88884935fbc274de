"""A small model, its recipe and images, for tests of the parts of a step."""

from __future__ import annotations

import dataclasses

import pytest

torch = pytest.importorskip("torch")
accelerate = pytest.importorskip("accelerate")

from torch import Tensor  # noqa: E402, after the check for what it needs

from musiq.model.network import Musiq  # noqa: E402
from musiq.presets import preset  # noqa: E402
from musiq.spec import Spec  # noqa: E402
from musiq.training.objective import Objective, Targets  # noqa: E402
from musiq.training.recipe import Recipe  # noqa: E402

RECIPE = Recipe(
    preset="tiny",
    start=None,
    height=64,
    width=64,
    outputs=1,
    epochs=1,
    batch_size=7,
    optimizer="adamw",
    lr=0.01,
    weight_decay=0.05,
    warmup=0.0,
    clip=0.0,
    loss="l1",
    margin=0.1,
    flip=False,
    seed=3,
    trunk_weights="none",
    batch_norm="trained",
    mixed_precision="no",
)
SMALL = dataclasses.replace(preset("tiny", 64, 64), dim=32, layers=2, mlp_dim=64)


def small_model(spec: Spec = SMALL) -> Musiq:
    torch.manual_seed(0)
    return Musiq(spec)


def photos(count: int = 7) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randint(0, 255, (count, 64, 64, 3), dtype=torch.uint8), torch.arange(count)


def gradients(model: Musiq, recipe: Recipe, groups: Tensor | None = None) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradient of one batch of seven, by the code that train.py's loop calls."""
    accelerator = accelerate.Accelerator(cpu=True)
    generator = torch.Generator().manual_seed(2)
    shares = torch.rand(7, recipe.outputs, generator=generator).softmax(dim=1) if recipe.outputs > 1 else None
    targets = Targets(torch.randn(7, generator=generator), shares, groups)
    images, indices = photos()
    model.train()
    loss = Objective(accelerator, recipe, targets, share=7).backward(model, images, indices, step=5)
    return loss, {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """To float32's rounding of sums as large as the largest gradient: those of the keys' biases are zero but for it."""
    assert found.keys() == expected.keys()
    largest = max(value.abs().max().item() for value in expected.values())
    assert largest > 1e-3
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=1e-3, atol=1e-5 * largest), name
