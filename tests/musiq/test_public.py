"""What `import musiq` gives: a few names, documented parameters, and none of the heavy packages."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import musiq
from musiq import metrics
from musiq.distributed import BatchScorer
from musiq.scoring import ScorerOptions

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {
    *("torch", "torchvision", "onnx", "onnxruntime", "openvino", "tensorrt", "scipy", "matplotlib", "rich", "ray"),
    *("pyarrow", "pandas", "safetensors", "einops", "accelerate", "skimage", "fsspec"),
}


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_importing_musiq_takes_no_time_and_scoring_none_of_the_heavy_packages() -> None:
    assert not modules_after("import musiq") & {*HEAVY, "cv2", "numpy", "click"}
    assert not modules_after("import musiq; musiq.Scorer, musiq.Row, musiq.load") & HEAVY
    assert not modules_after("import musiq.distributed, musiq.images, musiq.artifact, musiq.metrics") & HEAVY


def test_every_public_name_is_there_and_no_other_name_is_made_up() -> None:
    assert musiq.__all__ == ["ImageError", "MusiqError", "Row", "Scorer", "__version__", "create_metric", "load"]
    assert all(hasattr(musiq, name) for name in musiq.__all__)
    with pytest.raises(AttributeError, match="module 'musiq' has no attribute 'score'"):
        musiq.score  # type: ignore[attr-defined]  # noqa: B018


def test_the_packages_are_there_after_importing_musiq_alone() -> None:
    code = "import musiq; print(musiq.images.prepare, musiq.datasets.read_labels, musiq.runtimes, musiq.metrics.srcc)"
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, cwd=ROOT)
    lazy = {"Row", "Scorer", "datasets", "distributed", "images", "metrics", "runtimes"}
    assert {*lazy, *musiq.__all__} <= set(dir(musiq))
    assert not modules_after("import musiq; dir(musiq)") & {*HEAVY, "cv2", "numpy", "click"}


def defaults(call: Callable[..., Any]) -> dict[str, object]:
    return {name: each.default for name, each in inspect.signature(call).parameters.items()}


def test_load_and_the_options_of_a_scorer_have_its_parameters_and_defaults() -> None:
    of_a_scorer = defaults(musiq.Scorer)
    assert defaults(musiq.load) == of_a_scorer
    del of_a_scorer["model"]
    assert dataclasses.asdict(ScorerOptions()) == of_a_scorer
    in_a_batch_scorer = defaults(BatchScorer)
    for name in ("workers", "frames", "per_frame"):
        del of_a_scorer[name]
    assert {name: in_a_batch_scorer[name] for name in of_a_scorer} == of_a_scorer


@pytest.mark.parametrize(
    "call",
    [
        *(
            musiq.load,
            musiq.create_metric,
            musiq.Scorer.__init__,
            musiq.Scorer.score,
            musiq.Scorer.score_many,
            BatchScorer.__init__,
        ),
        *(metrics.METRICS.values()),
        *(metrics.undefined, metrics.intervals, metrics.srcc_difference, metrics.bootstrap),
    ],
    ids=lambda call: call.__qualname__,
)
def test_the_docstring_describes_each_parameter(call: Callable[..., Any]) -> None:
    described = inspect.getdoc(call) or ""
    for name in inspect.signature(call).parameters:
        assert name == "self" or f"\n    {name}: " in described
    assert any(f"\n{section}:\n" in described for section in ("Returns", "Yields", "Raises"))


def test_every_field_of_a_row_is_described() -> None:
    described = inspect.getdoc(musiq.Row) or ""
    assert all(f"\n    {field.name}: " in described for field in dataclasses.fields(musiq.Row))


def test_examples_use_names_of_packages_alone() -> None:
    """Such as `from musiq.images import prepare`, not a module inside, which may move; `musiq.files` is inside none."""
    used = {
        node.module
        for example in (ROOT / "examples").glob("*.py")
        for node in ast.walk(ast.parse(example.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("musiq")
    }
    assert used <= {"musiq", "musiq.files", "musiq.images", "musiq.video", "musiq.scoring", "musiq.distributed"}
