"""Score the images of WebDataset shards: one stage of a pipeline, in which each sample gets its score.

pip install '.[cpu,webdataset]'
python examples/webdataset_scores.py 'shards/{000..009}.tar' model.onnx > scores.csv
"""

from __future__ import annotations

import csv
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import webdataset

import musiq

ENDINGS = ("jpg", "jpeg", "png", "webp")

Sample = dict[str, Any]


def scored(samples: Iterable[Sample], scorer: musiq.Scorer) -> Iterator[Sample]:
    """Each sample with `score`, `size` and `error`; those behind it are decoded meanwhile."""
    waiting: deque[Sample] = deque()

    def files() -> Iterator[bytes]:
        for sample in samples:
            waiting.append(sample)
            yield next((file for name, file in sample.items() if name.rpartition(".")[2].lower() in ENDINGS), b"")

    for row in scorer.score_many(files()):  # in their order
        yield {**waiting.popleft(), "score": row.score, "size": row.size, "error": row.error}


def main(shards: str, model: str) -> None:
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(["key", "score", "size", "error"])
    with musiq.load(model) as scorer:
        # No .decode(): samples hold files, which musiq decodes, several at once.
        for sample in webdataset.WebDataset(shards, shardshuffle=False).compose(partial(scored, scorer=scorer)):
            table.writerow([sample["__key__"], sample["score"], sample["size"], sample["error"]])


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except (musiq.MusiqError, OSError) as problem:
        sys.exit(f"Error: {problem}")
