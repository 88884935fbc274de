"""`python -m musiq_bench.profiling.operators`: the runtimes' own accounts of where the time goes."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from musiq.errors import MusiqError, pip_install
from musiq.model import checkpoint
from musiq.scoring.arithmetic import gflop
from musiq_bench.machine.peak_rate import PRODUCT_GFLOP
from musiq_bench.profiling.operators import Account, account, main, share_of_product, shares_of_product, work_of
from tests.exporting import run
from tests.recipe import lively_model

PRODUCT = {".onnx": "MatMul", ".xml": "FullyConnected", ".safetensors": "aten::addmm"}


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
    assert re.search(r"In turns with a large matrix product, without the account: \d+% of its rate", done.output)


def test_the_rate_counts_the_arithmetic_that_is_left_in_the_file(folder: Path) -> None:
    onnx_file, trained = folder / "tiny.onnx", folder / "tiny.safetensors"
    spec = lively_model("tiny", height=64, width=96).spec
    assert work_of(onnx_file, spec) == pytest.approx(products_of(onnx_file) / 1e9, rel=0.01)
    assert work_of(trained, spec) == gflop(spec)
    assert work_of(folder / "a file without a record.onnx", spec) == gflop(spec)


def test_a_model_for_any_size_is_accounted_for_at_the_size_asked_for(any_size: Path) -> None:
    spec = lively_model("tiny", height=None, width=None, layers=1).spec
    assert work_of(any_size, spec, (64, 96)) == gflop(spec.at(64, 96))
    assert work_of(any_size, spec) == gflop(spec.at(768, 1024))
    done = CliRunner().invoke(main, [str(any_size), "--calls", "1", "--size", "96x64"])
    assert done.exit_code == 0, done.output
    assert "any.safetensors at 96x64, batch 1:" in done.output
    work = gflop(spec.at(64, 96))
    assert f" ms a call: {work:.1f} GFLOP at " in done.output


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


def test_a_share_of_the_product_is_a_ratio_of_rates() -> None:
    assert share_of_product(PRODUCT_GFLOP, call_s=0.1, product_s=0.1) == pytest.approx(1)
    assert share_of_product(PRODUCT_GFLOP, call_s=0.4, product_s=0.1) == pytest.approx(0.25)
    assert share_of_product(2 * PRODUCT_GFLOP, call_s=0.2, product_s=0.1) == pytest.approx(1)


def test_a_model_is_held_against_the_product_once_for_each_call(folder: Path) -> None:
    shares = shares_of_product(folder / "tiny.onnx", batch=2, calls=3)
    assert len(shares) == 3
    assert min(shares) > 0


def test_shares_add_up_and_rare_kinds_are_one_row() -> None:
    kinds = {f"kind{i}": (i, 10.0) for i in range(1, 5)}
    table = Account(lively_model("tiny").spec, kinds, wall_ms=50.0).table(work=1.0, most=2)
    assert table.splitlines()[2:5] == [
        "| kind1 | 1 | 10.0 | 25% |",
        "| kind2 | 2 | 10.0 | 25% |",
        "| 2 other kinds | 7 | 20.0 | 50% |",
    ]


def test_a_checkpoint_is_not_profiled_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    done = CliRunner().invoke(main, [str(tmp_path / "x.safetensors")])
    assert (done.exit_code, done.output.count("\n")) == (1, 1)
    assert f"needs torch: {pip_install('train')}." in done.output


def test_a_file_without_an_account_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MusiqError, match="cannot be profiled: give a file named"):
        account(tmp_path / "model.engine")
