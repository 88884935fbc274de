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


def main(shards: str, model: str) -> bool:
    """Score and write; whether every shard could be read to its end."""
    broken = []

    def goes_on(problem: Exception) -> bool:
        """A broken shard is told and costs the others nothing."""
        broken.append(problem)
        print(f"Error: {problem if isinstance(problem, OSError) else problem.args[0]}", file=sys.stderr)
        return True

    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(["key", "score", "size", "error"])
    count = 0
    with musiq.load(model) as scorer:
        # No .decode(): samples hold files, which musiq decodes, several at once.
        samples = webdataset.WebDataset(shards, shardshuffle=False, handler=goes_on, empty_check=False)
        for sample in samples.compose(partial(scored, scorer=scorer)):
            table.writerow([sample["__key__"], sample["score"], sample["size"], sample["error"]])
            count += 1
    if not count:
        raise musiq.MusiqError(f"There is no sample in {shards}.")
    return not broken


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        sys.exit(0 if main(*sys.argv[1:]) else 1)
    except (musiq.MusiqError, OSError) as problem:
        sys.exit(f"Error: {problem}")
