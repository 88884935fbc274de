"""PyTorch: half precision on CPUs without it, and files that are compiled when opened."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from musiq.errors import MusiqError
from musiq.runtimes import pytorch
from musiq.runtimes.registry import open_runtime
from tests.recipe import photo


@pytest.mark.parametrize(
    ("precision", "fast", "warned"), [("bf16", False, True), ("bf16", True, False), ("fp32", False, False)]
)
def test_half_precision_that_pytorch_has_no_products_for_on_this_cpu_is_warned_of(
    artifacts: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    recwarn: pytest.WarningsRecorder,
    precision: str,
    fast: bool,
    warned: bool,
) -> None:
    path = artifacts("torchscript", "--precision", precision)
    recwarn.clear()
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: fast)
    monkeypatch.setattr(pytorch, "is_x86", lambda: True)
    open_runtime(path, "cpu").close()
    messages = [str(one.message) for one in recwarn]
    assert any("takes several times as long as for fp32 on this CPU" in one for one in messages) == warned


def test_a_pt2_file_that_is_compiled_when_opened_scores_the_same(
    artifacts: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = np.stack([photo(32, 64, seed) for seed in range(3)])
    path = artifacts("pt2", "--height", "32", "--width", "64")
    expected = open_runtime(path, "cpu")(images)
    monkeypatch.setattr(
        "musiq.runtimes.pytorch.torch_device", lambda device: torch.device("cpu")
    )  # as if it were a GPU
    # All of the compiler but its last part, which has a C++ compiler at work for a minute.
    monkeypatch.setattr("torch.compile", functools.partial(torch.compile, backend="aot_eager"))
    runtime = open_runtime(path, "cuda-compile:0")
    assert runtime.provider == "torch.export compiled cpu"
    np.testing.assert_allclose(runtime(images), expected, atol=1e-4)
    with pytest.raises(MusiqError, match=r"does not run on cuda-compile:0, a \.pt2 file does: use cuda:0"):
        open_runtime(artifacts("torchscript"), "cuda-compile:0")


def test_only_a_larger_batch_is_compiled_anew(artifacts: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def compile(module: Callable[..., Any], dynamic: bool) -> Callable[..., Any]:
        def run(*tensors: Any) -> Any:
            sizes.append(len(tensors[0]))
            return module(*tensors)

        return run

    monkeypatch.setattr("torch.compile", compile)
    monkeypatch.setattr("musiq.runtimes.pytorch.torch_device", lambda device: torch.device("cpu"))
    images = np.stack([photo(32, 64, seed) for seed in range(5)])
    path = artifacts("pt2", "--height", "32", "--width", "64")
    expected = open_runtime(path, "cpu")(images)
    runtime = open_runtime(path, "cuda-compile:0")
    for count in (3, 2, 5, 1, 4):
        np.testing.assert_allclose(runtime(images[:count]), expected[:count], atol=1e-5)
    assert sizes == [3, 3, 5, 3, 5]


@pytest.mark.gpu
def test_compiled_on_cuda_it_scores_like_the_cpu(artifacts: Callable[..., Path], tiny_checkpoint: Path) -> None:
    images = np.stack([photo(192, 256, seed) for seed in range(3)])
    expected = open_runtime(tiny_checkpoint, "cpu")(images)
    for path in (artifacts("pt2"), tiny_checkpoint):
        runtime = open_runtime(path, "cuda-compile:0")
        assert "compile" in runtime.provider
        for count in (3, 1):
            np.testing.assert_allclose(runtime(images[:count]), expected[:count], atol=1e-3)
