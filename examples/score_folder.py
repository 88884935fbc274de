"""Score every image of a folder, in plain Python: path, score, what the model saw, and the error where there is one.

    pip install '.[cpu]'
    python examples/score_folder.py model.onnx photos/ > scores.csv

`musiq-score` does the same and can go on after it was stopped.
"""

from __future__ import annotations

import csv
import sys

import musiq
from musiq.images import find_images


def main(model: str, folder: str) -> None:
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(["path", "score", "size", "fitted", "error"])
    with musiq.load(model) as scorer:
        for row in scorer.score_many(find_images([folder])):  # decodes ahead, in order
            table.writerow([row.path, row.score, row.size, row.fitted, row.error])


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except musiq.MusiqError as problem:
        sys.exit(f"Error: {problem}")
