"""Simplifications before export change no score: proven in float64 against the model as trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from musiq.model.half_precision import in_precision
from musiq.presets import PRESETS
from musiq_export.graph.onnx import float_onnx
from musiq_export.graph.simplify import FoldedAttention, gflop, simplify
from musiq_export.request import Request
from tests.recipe import lively_model, photo

SLOW = ("resnet50", "resnet50-classic")


@pytest.mark.parametrize(
    "preset", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in PRESETS]
)
def test_a_simplified_model_scores_the_same_to_1e_9_in_float64(preset: str) -> None:
    layers = min(PRESETS[preset].layers, 2)  # the last, and one that is not
    model = lively_model(preset, height=75, width=101, layers=layers).double()
    image = torch.from_numpy(photo(75, 101, 5))[None]
    with torch.inference_mode():
        torch.testing.assert_close(simplify(model).predict(image), model.predict(image), atol=1e-9, rtol=1e-9)


def test_nothing_of_batch_norm_or_standardisation_is_left() -> None:
    for preset in ("resnet50", "musiq"):
        kinds = {type(module).__name__ for module in simplify(lively_model(preset, height=64, width=64)).modules()}
        assert not kinds & {"BatchNorm2d", "StandardisedConv", "Embeddings"}


@pytest.mark.parametrize("norm", ["norm_root", "norm1", "norm2", "norm3", "norm_shortcut"])
def test_a_group_norm_with_scales_of_zero_and_less_is_still_exact(norm: str) -> None:
    model = lively_model("tiny").double()
    with torch.no_grad():
        getattr(model.trunk, norm).weight[:3] = torch.tensor([-0.7, 0.0, 1.3])
    image = torch.from_numpy(photo(model.spec.height, model.spec.width, 5))[None]
    with torch.inference_mode():
        torch.testing.assert_close(simplify(model).predict(image), model.predict(image), atol=1e-9, rtol=1e-9)


def test_attention_is_folded_in_every_layer_only_where_heads_are_as_wide_as_the_model() -> None:
    def folded(preset: str) -> list[bool]:
        model = simplify(lively_model(preset, height=64, width=64))
        return [isinstance(layer.attention, FoldedAttention) for layer in model.layers]

    assert folded("resnet50-classic") == [True] * 14
    assert folded("resnet50") == [False] * 13 + [True]


def test_the_original_is_left_as_it_was() -> None:
    model = lively_model("tiny")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    simplify(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_folding_saves_the_work_that_it_promises() -> None:
    classic, musiq = lively_model("resnet50-classic"), lively_model("musiq")
    assert gflop(classic) - gflop(simplify(classic)) > 40  # at 1024x768, of about 350
    assert 77 < gflop(simplify(musiq)) < 78  # 16.9 of them attention's products


@pytest.mark.parametrize(
    ("preset", "fused"), [("musiq", "FastGelu"), pytest.param("resnet50", "BiasGelu", marks=pytest.mark.slow)]
)
def test_onnx_runtime_makes_one_operator_of_each_gelu(preset: str, fused: str, tmp_path: Path) -> None:
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    graph = float_onnx(Request(simplify(lively_model(preset, height=64, width=64, layers=2))))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimised.onnx"), 3
    onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert kinds.count(fused) == 2
    assert not {"Tanh", "Erf"} & set(kinds)


def test_half_precision_keeps_the_pyramid_in_fp32_and_norms_compute_in_it() -> None:
    half = in_precision(simplify(lively_model("resnet50-classic", height=64, width=64)), "fp16")
    assert half.pyramid.gain.dtype == torch.float32
    assert half.layers[0].mlp[0].weight.dtype == torch.float16
    norm = half.layers[0].norm1
    flat = torch.full((1, 3, 384), 0.5, dtype=torch.float16)  # no variance: only eps, zero in fp16, keeps it from 0/0
    assert torch.isfinite(norm(flat)).all()
    large = 3000 * torch.randn(1, 3, 384, generator=torch.Generator().manual_seed(0))  # squares are beyond fp16
    found = norm(large.half())
    assert found.dtype == torch.float16
    exact = torch.nn.functional.layer_norm(large.half().double(), (384,), norm.weight.double(), norm.bias.double())
    torch.testing.assert_close(found.double(), exact, rtol=2e-3, atol=2e-3)


@pytest.mark.slow
def test_half_precision_norms_are_single_operators_that_onnx_computes_in_fp32() -> None:
    # Four of two layers; the others of `musiq` are its patch trunk's and the one at the end.
    for preset, count in (("musiq", 15), ("resnet50-classic", 4)):
        graph = float_onnx(Request(simplify(lively_model(preset, height=64, width=64, layers=2)), "fp16")).graph
        norms = [node for node in graph.node if node.op_type == "LayerNormalization"]
        assert len(norms) == count
        stash = [attribute.i for node in norms for attribute in node.attribute if attribute.name == "stash_type"]
        assert set(stash) <= {1}  # 1 is what it is where it is not said
        assert sum(node.op_type == "Cast" for node in graph.node) < 10
