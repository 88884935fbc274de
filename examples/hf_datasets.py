"""Score the images of a Hugging Face dataset: one batched map over its Image column.

    pip install '.[cpu,datasets]'
    python examples/hf_datasets.py photos/ model.onnx > scores.csv

The dataset is a folder of images here; any other with an Image column goes the same way, streamed ones too.
"""

from __future__ import annotations

import csv
import sys
from typing import Any

import datasets

import musiq
from musiq.distributed import kept_scorer
from musiq.images import find_images


def score(batch: dict[str, list[Any]], model: str, column: str = "image") -> dict[str, list[Any]]:
    """Columns of scores for a batch of files; the model is opened once a process."""
    files = (image["bytes"] or image["path"] if image else b"" for image in batch[column])  # some rows have none
    rows = list(kept_scorer(model).score_many(files))
    return {name: [getattr(row, name) for row in rows] for name in ("score", "size", "error")}


def main(folder: str, model: str) -> None:
    find_images(folder)  # says it where there is none
    photos = datasets.load_dataset("imagefolder", data_dir=folder, split="train", drop_labels=True)
    # Files, not Pillow's images: musiq decodes them, several at once, and a broken one is a row with its reason.
    photos = photos.cast_column("image", datasets.Image(decode=False))
    scored = photos.map(
        score,
        batched=True,
        batch_size=256,  # the model waits at the end of a batch, so many
        fn_kwargs={"model": model},
        load_from_cache_file=False,  # which would not see that the model's file is another
    )
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(["path", "score", "size", "error"])
    for row in scored:
        table.writerow([row["image"]["path"], row["score"], row["size"], row["error"]])


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except (musiq.MusiqError, OSError, datasets.exceptions.DatasetsError) as problem:
        sys.exit(f"Error: {problem}")
