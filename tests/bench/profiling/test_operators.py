"""`python -m musiq_bench.profiling.operators`: the runtimes' own accounts of where the time goes."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from musiq.errors import MusiqError
from musiq.model import checkpoint
from musiq.runtimes.base import Images, Scores
from musiq_bench.plan.duration import gflop
from musiq_bench.profiling import operators
from musiq_bench.profiling.operators import Account, account, main, work_of
from tests.exporting import run
from tests.recipe import lively_model
from tests.score_samples import FakeRuntime, mean_spec

PRODUCT = {".onnx": "MatMul", ".xml": "FullyConnected", ".safetensors": "aten::addmm"}


class Flat(FakeRuntime):
    def __init__(self) -> None:
        super().__init__(mean_spec())

    def run(self, images: Images) -> dict[str, Scores]:
        return {"score": np.zeros(len(images), np.float32)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("openvino")
    folder = tmp_path_factory.mktemp("operators")
    checkpoint.save(lively_model("tiny", height=64, width=96), folder / "tiny.safetensors")
    formats = ("--format", "onnx", "--format", "openvino")
    made = run("--checkpoint", folder / "tiny.safetensors", "--out", folder, "--name", "tiny", *formats)
    assert made.exit_code == 0, made.output
    return folder


@pytest.mark.parametrize("ending", list(PRODUCT))
def test_every_runtime_accounts_for_products_of_matrices_among_its_operators(folder: Path, ending: str) -> None:
    found = account(folder / f"tiny{ending}", batch=2, calls=2, threads=1)
    nodes, ms = found.kinds[PRODUCT[ending]]
    assert nodes > 5
    assert 0 < ms < sum(each for _, each in found.kinds.values())
    assert found.spec.width == 96


def test_the_command_prints_a_table_and_how_near_it_comes_to_a_matrix_product(folder: Path) -> None:
    done = CliRunner().invoke(main, [str(folder / "tiny.onnx"), "--calls", "1"])
    assert done.exit_code == 0, done.output
    assert "| MatMul |" in done.output
    share = re.search(r"In turns with a large matrix product, without the account: (\d+)% of its rate", done.output)
    assert share
    assert 0 < int(share[1]) < 100  # so small a model is far from it


def test_the_rate_counts_the_arithmetic_that_is_left_in_the_file(folder: Path) -> None:
    onnx_file, trained = folder / "tiny.onnx", folder / "tiny.safetensors"
    spec = lively_model("tiny", height=64, width=96).spec
    assert work_of(onnx_file, spec) == pytest.approx(products_of(onnx_file) / 1e9, rel=0.01)
    assert work_of(trained, spec) == gflop(spec)
    assert work_of(folder / "a file without a record.onnx", spec) == gflop(spec)


def products_of(path: Path) -> int:
    """Twice the multiplications of a graph's products for one image, from the shapes that onnx infers."""
    import onnx
    from onnxruntime.tools.onnx_model_utils import make_dim_param_fixed

    model = onnx.load(str(path))
    make_dim_param_fixed(model.graph, model.graph.input[0].type.tensor_type.shape.dim[0].dim_param, 1)
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {it.name: [dim.dim_value for dim in it.type.tensor_type.shape.dim] for it in graph.value_info}
    shapes |= {it.name: list(it.dims) for it in graph.initializer}
    count = 0
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            weight = shapes[node.input[1]]
            # Each output sums over the inputs of a convolution's kernel, or the rows of a matrix.
            turned = any(it.name == "transB" and it.i for it in node.attribute)
            sums = math.prod(weight[1:]) if node.op_type == "Conv" or turned else weight[-2]
            count += 2 * math.prod(shapes[node.output[0]]) * sums
    return count


def test_twice_the_work_in_the_same_time_is_twice_the_share(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([0.2, 0.1, 0.4, 0.1])
    monkeypatch.setattr(operators, "best_s", lambda call, times: next(seconds))
    monkeypatch.setattr(operators, "work_of", lambda path, spec: operators.PRODUCT_GFLOP)
    monkeypatch.setattr(operators, "open_runtime", lambda *given: Flat())
    assert operators.shares_of_product(Path("model.onnx"), batch=2, calls=2) == pytest.approx([1.0, 0.5])


def test_shares_add_up_and_rare_kinds_are_one_row() -> None:
    kinds = {f"kind{i}": (i, 10.0) for i in range(1, 5)}
    table = Account(lively_model("tiny").spec, kinds, wall_ms=50.0).table(work=1.0, most=2)
    assert table.splitlines()[2:5] == [
        "| kind1 | 1 | 10.0 | 25% |",
        "| kind2 | 2 | 10.0 | 25% |",
        "| 2 other kinds | 7 | 20.0 | 50% |",
    ]


def test_a_file_without_an_account_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MusiqError, match="cannot be profiled: give a file named"):
        account(tmp_path / "model.engine")
