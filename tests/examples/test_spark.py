"""The Spark example on a local Spark of two threads: the scores of a Scorer, a broken image is a row."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import musiq
from tests.score_samples import save_mean_model, saved, scene

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "spark_udf.py"
OLDEST_JAVA = 17  # what Spark 4 runs on


def java_version() -> int:
    """The major version of the Java that Spark would start, 0 for none."""
    home = os.environ.get("JAVA_HOME")
    java = shutil.which(os.path.join(home, "bin", "java")) if home else shutil.which("java")
    if not java:
        return 0
    said = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=300).stderr
    found = re.search(r'version "(\d+)', said)
    return int(found[1]) if found else 0


pytest.importorskip("pyspark", reason="needs Spark: pip install '.[spark]'")
pytestmark = pytest.mark.skipif(
    java_version() < OLDEST_JAVA, reason=f"needs Java {OLDEST_JAVA} or newer, found {java_version() or 'none'}"
)

LOCAL = {
    "SPARK_LOCAL_IP": "127.0.0.1",
    "PYSPARK_PYTHON": sys.executable,
    "PYSPARK_DRIVER_PYTHON": sys.executable,
    "PYSPARK_SUBMIT_ARGS": "--master local[2] --driver-memory 512m --conf spark.ui.enabled=false pyspark-shell",
    "PYTHONPATH": str(ROOT),
}


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mean.onnx, any.onnx for any size, nine images of as many sizes and a broken one."""
    top = tmp_path_factory.mktemp("spark")
    save_mean_model(top / "mean.onnx")
    save_mean_model(top / "any.onnx", height=None, width=None)
    (top / "photos").mkdir()
    for number in range(9):
        (top / "photos" / f"{number}.png").write_bytes(saved(scene(number, 64 + number, 96), "png"))
    (top / "photos" / "bad.jpg").write_bytes(b"This is not an image.\n")
    return top


def expected(top: Path, model: str = "mean.onnx") -> dict[str, tuple[float | None, str, str]]:
    with musiq.load(top / model) as scorer:
        rows = scorer.score_many(sorted((top / "photos").iterdir()))
        return {Path(row.path).name: (row.score, row.size, row.error) for row in rows}


@pytest.mark.slow
def test_the_example_scores_a_folder_as_a_local_scorer_does(top: Path) -> None:
    command = [sys.executable, str(EXAMPLE), str(top / "photos"), str(top / "mean.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **LOCAL}, timeout=300, cwd=top)
    assert done.returncode == 0, done.stderr
    rows = dict(line.split("\t") for line in done.stdout.splitlines())
    want = expected(top)
    assert [Path(path).name for path in rows] == sorted(want)
    for path, said in rows.items():
        score, _, error = want[Path(path).name]
        assert (said == error) if score is None else (float(said) == pytest.approx(score, abs=1e-5))


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    before, on_ctrl_c = dict(os.environ), signal.getsignal(signal.SIGINT)
    os.environ.update(LOCAL)
    from pyspark.sql import SparkSession

    session = SparkSession.builder.appName("test").getOrCreate()
    yield session
    session.stop()
    signal.signal(signal.SIGINT, on_ctrl_c)  # Spark had put its own there
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.slow
def test_a_column_of_paths_scores_too_and_the_model_is_opened_once_a_worker(spark: Any, top: Path) -> None:
    from pyspark.sql.functions import udf

    from examples.spark_udf import scoring
    from musiq.distributed import kept_scorer

    paths = [str(path) for path in sorted((top / "photos").iterdir())] + [None]
    frame = spark.createDataFrame([(path,) for path in paths * 3], "path string").repartition(6)
    for _ in range(2):
        rows = frame.select("path", scoring(str(top / "any.onnx"))("path").alias("q")).select("path", "q.*").collect()
    assert len(rows) == len(paths) * 3
    want = expected(top, "any.onnx")
    for row in rows:
        if row.path is None:
            assert row.score is None
            assert "give a path" in row.error
        else:
            score, size, error = want[Path(row.path).name]
            assert (row.size, row.error) == (size, error)
            assert row.score == (None if score is None else pytest.approx(score, abs=1e-5))
    opened = udf(lambda _: f"{os.getpid()} {kept_scorer.cache_info().misses}")
    counts = {row[0] for row in frame.select(opened("path")).collect()}
    assert {count.split()[1] for count in counts} <= {"0", "1"}
    assert any(count.endswith(" 1") for count in counts)
