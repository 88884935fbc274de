"""The schedule of the learning rate, and the rate and decay of each parameter."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("accelerate")

from musiq.training.optimizer import build_optimizer, learning_rate, rate_factor, set_rates
from tests.musiq.training.small_model import RECIPE, small_model


def test_the_rate_rises_over_the_warm_up_then_falls_once_to_zero() -> None:
    rates = [learning_rate(step, 100, 2.0, 0.1) for step in range(100)]
    assert rates[:10] == pytest.approx(np.arange(1, 11) * 0.2)
    expected = 1 + np.cos(np.pi * np.arange(90) / 90)
    assert rates[10:] == pytest.approx(expected)


def test_rates_fall_from_the_head_down_to_the_trunk() -> None:
    recipe = dataclasses.replace(RECIPE, layer_decay=0.5, trunk_lr=0.1, head_lr=10)
    factors = {
        "head.weight": 10,
        "norm.bias": 1,
        "layers.1.mlp.0.weight": 0.5,
        "layers.0.norm1.weight": 0.25,
        "embed.position": 0.125,
        "trunk.project.weight": 0.125,
        "trunk.net.conv1.weight": 0.0125,
    }
    assert {name: rate_factor(name, recipe, layers=2) for name in factors} == pytest.approx(factors)


def test_each_parameter_has_one_rate_and_norms_and_biases_do_not_decay() -> None:
    model = small_model()
    recipe = dataclasses.replace(RECIPE, layer_decay=0.5, trunk_lr=0.1)
    optimizer = build_optimizer(recipe, model)
    set_rates(optimizer, 0.02)
    found = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(found) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        group = found[id(parameter)]
        assert group["lr"] == pytest.approx(0.02 * rate_factor(name, recipe, 2))
        plain = name.endswith("bias") or "norm" in name or name == "embed.class_token"
        assert group["weight_decay"] == (0 if plain else 0.05), name
