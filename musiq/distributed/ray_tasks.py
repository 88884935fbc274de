"""What runs in the tasks and actors of a Ray cluster: shards are read into tables, whose images are scored."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from musiq.distributed.batch_scorer import arrow_columns, open_scorer
from musiq.distributed.shards import ShardImage, located, read_piece
from musiq.images.decode import Source
from musiq.scoring import Row, ScorerOptions

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_BYTES = 32 * 2**20
"""Images' bytes that travel together: many for one message, few beside the object store of the smallest machine."""
BATCH_IMAGES = 64
"""Images that travel together, and at most as many are scored again where a worker dies: seconds of work."""


def read_shard(batch: dict[str, Any]) -> Iterator[pa.Table]:
    """The images of one piece, as tables of a bounded size."""
    number, (piece, folder) = int(batch["piece"][0]), pickle.loads(batch["content"][0])
    ahead = _with_last(read_piece(piece, folder))
    table: list[tuple[int, bool, ShardImage]] = []
    size = 0
    for row, (image, last) in enumerate(ahead):
        table.append((row, last, image))
        size += len(image.data or b"")
        if last or len(table) == BATCH_IMAGES or size >= BATCH_BYTES:
            yield _table(number, table)
            table, size = [], 0


def _with_last(items: Iterable[ShardImage]) -> Iterator[tuple[ShardImage, bool]]:
    """Each item and whether it is the last."""
    iterator = iter(items)
    before = next(iterator)
    for item in iterator:
        yield before, False
        before = item
    yield before, True


def _table(piece: int, rows: list[tuple[int, bool, ShardImage]]) -> pa.Table:
    import pyarrow as pa

    columns = {
        "piece": pa.array([piece] * len(rows), pa.int64()),
        "row": pa.array([row for row, _, _ in rows], pa.int64()),
        "last": pa.array([last for _, last, _ in rows], pa.bool_()),
        "name": pa.array([os.fsencode(image.name) for _, _, image in rows], pa.binary()),  # any bytes are a path
        "data": pa.array([image.data for _, _, image in rows], pa.large_binary()),
        "error": pa.array([image.error for _, _, image in rows], pa.string()),
    }
    return pa.table(columns)


class ScoreImages:
    """Scores the tables of `read_shard`: a path where there are no bytes, nothing where there was an error already."""

    def __init__(self, folder: str, models: list[str], options: ScorerOptions) -> None:
        self.folder = folder
        self.scorer = open_scorer(models, options)

    def __call__(self, table: pa.Table) -> pa.Table:
        import pyarrow as pa

        columns = (table[name].to_pylist() for name in ("name", "data", "error"))
        found = [ShardImage(os.fsdecode(name), data, error) for name, data, error in zip(*columns, strict=True)]
        scored = iter(list(self.scorer.score_many(self._source(image) for image in found if not image.error)))
        rows = [Row("", None, error=image.error) if image.error else next(scored) for image in found]
        outcome = {"model": pa.array([row.model for row in rows], pa.string())}
        outcome |= arrow_columns(rows, self.scorer.spec.outputs)
        return pa.table({name: table[name] for name in ("piece", "row", "last", "name")} | outcome)

    def _source(self, image: ShardImage) -> Source:
        return located(image.name, self.folder) if image.data is None else image.data
