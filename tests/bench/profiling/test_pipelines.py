"""`python -m musiq_bench.profiling.pipelines`: each way scores the folder, and one that cannot is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from musiq_bench.profiling import pipelines
from tests.score_samples import save_mean_model

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


@pytest.mark.slow
def test_each_way_has_a_rate_and_its_ratio_to_the_command(photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    pytest.importorskip("webdataset")
    model = save_mean_model(tmp_path / "mean.onnx", height=None, width=None)
    arguments = [photos, "--model", model, "--rounds", "1", "--examples", EXAMPLES]
    done = CliRunner().invoke(pipelines.main, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    assert "4 images, mean.onnx, 1 rounds" in done.output
    rows = [line.split("|")[1:-1] for line in done.output.splitlines() if line.startswith("| ")]
    assert [row[0].strip() for row in rows[-3:]] == ["musiq-score", "datasets", "webdataset"]
    assert [float(row[1]) > 0 for row in rows[-3:]] == [True] * 3
    assert rows[-3][2].strip() == "1.00 (1.00-1.00)"


def test_a_way_that_fails_is_named(photos: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(pipelines.main, [str(photos), "--model", str(photos / "0.jpg"), "--rounds", "1"])
    assert done.exit_code == 1
    assert [line for line in done.output.splitlines() if "musiq-score failed: " in line]
