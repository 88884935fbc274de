"""Score a column of a Spark DataFrame with a pandas_udf: python examples/spark_udf.py photos/ model.onnx [scores/]

Needs pip install '.[cpu,spark]' on every executor, Java 17 or newer, and the model at the same path everywhere
(spark.sparkContext.addFile and SparkFiles.get bring it there). The column holds images (binary, as here: Spark's
binaryFile format) or paths that the executors can read. Prints the rows, or writes them as Parquet files to a folder.

Each Python worker of Spark opens the model once and keeps it. A model has one CPU, as a Spark task has (spark.task.cpus).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from pyspark.sql import SparkSession
from pyspark.sql.functions import pandas_udf  # type: ignore[attr-defined,unused-ignore]

from musiq.distributed import kept_scorer
from musiq.scoring import ScorerOptions


def scoring(model: str) -> Callable[..., Any]:
    """A UDF from images or paths to a struct: score (null where there is none), size, fitted, error."""

    @pandas_udf("score float, size string, fitted string, error string")  # type: ignore[untyped-decorator,unused-ignore]
    def score(columns: Iterator[pd.Series]) -> Iterator[pd.DataFrame]:
        scorer = kept_scorer(model, ScorerOptions(device="cpu", threads=1, workers=1))
        for images in columns:
            rows = [(row.score, row.size, row.fitted, row.error) for row in scorer.score_many(images)]
            yield pd.DataFrame(rows, columns=["score", "size", "fitted", "error"])

    return score


def main(folder: str, model: str, out: str | None = None) -> None:
    spark = SparkSession.builder.appName("musiq").getOrCreate()
    # A batch of the default 10,000 images would not fit in memory.
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", "64")
    images = spark.read.format("binaryFile").option("recursiveFileLookup", "true").load(folder)
    scored = images.select("path", scoring(str(Path(model).resolve()))("content").alias("quality")).select(
        "path", "quality.*"
    )
    if out:
        scored.write.parquet(out)
    else:
        for row in scored.orderBy("path").toLocalIterator():
            print(row.path, row.error or row.score, sep="\t")
    spark.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
