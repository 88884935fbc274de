"""Score images in a Ray Data pipeline of your own: python examples/ray_data.py photos/ model.onnx [scores/]

Needs pip install '.[cpu,ray]' on every machine of the cluster, and folder and model at the same paths there. Prints the
rows, or writes them as Parquet files to a folder. `musiq-score --engine ray` does the same in one command, in order.
"""

from __future__ import annotations

import sys
from pathlib import Path

import ray.data

from musiq.distributed import BatchScorer
from musiq.images import find_images


def main(folder: str, model: str, out: str | None = None) -> None:
    images = [{"path": str(path)} for path in find_images([Path(folder).resolve()])]  # Ray's workers run elsewhere
    scores = ray.data.from_items(images).map_batches(
        BatchScorer,
        fn_constructor_kwargs={"model": str(Path(model).resolve())},
        batch_size=64,
        num_cpus=1,  # CPUs of each model; num_gpus=1 for CUDA
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=4),
    )
    if out:
        scores.write_parquet(str(Path(out).resolve()))
        return
    for row in scores.iter_rows():
        print(row["path"], row["error"] or row["score"], sep="\t")


if __name__ == "__main__":
    main(*sys.argv[1:])
