"""`RayScorer`: what `musiq-score --engine ray` runs: files, Parquet and tars read and scored over a Ray cluster."""

from __future__ import annotations

import logging
import os
import pickle
import socket
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from musiq.artifact import read_record
from musiq.distributed.batch_scorer import arrow_columns, open_scorer
from musiq.distributed.shards import Piece, Record, cut, located, records
from musiq.errors import MusiqError
from musiq.hardware import available_cpus
from musiq.images.decode import Source
from musiq.scoring.model_choice import check_mixture
from musiq.scoring.row import Row
from musiq.scoring.scorer import Scorer
from musiq.spec import Spec, share_columns

if TYPE_CHECKING:
    import pyarrow as pa
    import ray

BATCH_BYTES = 32 * 2**20
"""Images' bytes that travel together: many for one message, few beside the object store of the smallest machine."""
BATCH_IMAGES = 64
"""Images that travel together, and at most as many are scored again where a worker dies: seconds of work."""
READERS = 8
"""Tasks that read at once; reading waits for disks and networks, so they ask for no CPU."""
CONNECT_S = 10
"""How long to wait for a cluster's address to answer."""
TASKS = 512
"""Reading tasks, each of one or more pieces: enough for any cluster, few enough for Ray to plan at once."""


class RayScorer:
    """`Scorer.score_many` over a Ray cluster, and over Parquet files and WebDataset tars too.

    `address` is a running cluster's; None takes the one that this process is connected to, or starts one on this machine
    for as long as this lives. Each actor has `threads` CPUs (default 1), and one GPU where `device` names one; Ray starts
    as many as help and the cluster has room for. The actors open the model and the images: both have to lie at the same
    paths on every machine (images may be URLs), where this package is installed too. `column` names that of the
    images in Parquet files. Several models and further `options` are those of `musiq.scoring.scorer.Scorer`.

    Raises MusiqError for a model that cannot be opened, a cluster that cannot be reached, or one that is too small.
    """

    def __init__(
        self,
        model: Path | Sequence[Path],
        device: str = "auto",
        *,
        address: str | None = None,
        column: str | None = None,
        threads: int | None = None,
        batch_size: int | None = None,
        **options: Any,
    ) -> None:
        self.column, self.threads = column, threads or 1
        models = [model] if isinstance(model, Path) else list(model)
        self._models = {os.path.abspath(each): str(each) for each in models}
        self._options = {"model": list(self._models), "device": device, "batch_size": batch_size, **options}
        self._gpus = 0 if device in ("auto", "cpu") else 1
        specs = [_spec(each, device) for each in models]
        check_mixture([str(each) for each in models], specs)
        self.spec = specs[0]
        self._own = _connect(address)
        self._check_room()

    def __enter__(self) -> RayScorer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the cluster where this started it, leave it where it was running."""
        if self._own:
            _ray().shutdown()
            self._own = False

    def score_many(self, sources: Iterable[str]) -> Iterator[Row]:
        """A Row for each image in `sources` (paths, URLs, folders, *.parquet, *.tar), in their order.

        A worker that dies is started again and its batch is scored again, as often as it takes (Ray's default). Every row
        carries its number, so that a lost or doubled one is an error and never a wrong file. Raises MusiqError where Ray
        cannot go on.
        """
        pieces = list(cut(sources, self.column))
        if not pieces:
            return
        place = _Place(len(pieces))
        try:
            blocks: Any = self._scored(pieces).iter_batches(batch_size=None, batch_format="pyarrow")
            for block in blocks:
                for values in block.to_pylist():
                    place.check(values["piece"], values["row"], values["last"])
                    yield self._row(values)
        except _ray().exceptions.RayError as problem:
            raise MusiqError(f"Ray could not go on: {_reason(problem)}") from problem
        place.check_end()

    def _scored(self, pieces: list[Piece]) -> ray.data.Dataset:
        from ray.data import ActorPoolStrategy, TaskPoolStrategy, from_items

        _settle_ray_data()
        items = [
            {"piece": number, "content": pickle.dumps((piece, os.getcwd()))} for number, piece in enumerate(pieces)
        ]
        tasks = min(len(items), TASKS)
        read = from_items(items, override_num_blocks=tasks).map_batches(
            _read, batch_size=1, batch_format="numpy", num_cpus=0, compute=TaskPoolStrategy(min(tasks, READERS))
        )
        return read.map_batches(
            _ScoreRecords,
            fn_constructor_kwargs={"folder": os.getcwd(), **self._options},  # workers have another working folder
            batch_size=BATCH_IMAGES,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(min_size=1, max_size=self._room()),
            num_cpus=self.threads,
            num_gpus=self._gpus,
        )

    def _room(self) -> int:
        """How many actors the cluster can hold."""
        resources = _ray().cluster_resources()
        room = int(resources.get("CPU", 0)) // self.threads
        return min(room, int(resources.get("GPU", 0))) if self._gpus else room

    def _check_room(self) -> None:
        if not self._room():
            self.close()
            what = f"{self.threads} CPU{'s' * (self.threads > 1)}" + " and a GPU" * self._gpus
            raise MusiqError(
                f"The Ray cluster has no room for a model with {what}. Give fewer --threads, or --device cpu."
            )

    def _row(self, values: dict[str, Any]) -> Row:
        shares = tuple(values[name] for name in share_columns(self.spec.outputs))
        return Row(
            os.fsdecode(values["name"]),
            values["score"],
            values["fitted"],
            values["error"],
            shares if shares and values["score"] is not None else None,
            self._models.get(values["model"], ""),
        )


def _spec(model: Path, device: str) -> Spec:
    """That of the record, or of the model itself; raises MusiqError for what no worker could open either."""
    record = read_record(model) if model.is_file() else None
    if record is not None:
        return record.spec
    with Scorer(model, device) as scorer:
        return scorer.spec


class _Place:
    """Where in the sources the last row was, to see that the next one is the next one."""

    def __init__(self, pieces: int) -> None:
        self.pieces = pieces
        self.next = (0, 0)

    def check(self, piece: int, row: int, last: bool) -> None:
        if (piece, row) != self.next:
            raise MusiqError(
                f"Ray gave row {row} of part {piece} where row {self.next[1]} of part {self.next[0]} comes next: rows "
                "were lost or doubled. Run it again, and report it if it happens again."
            )
        self.next = (piece + 1, 0) if last else (piece, row + 1)

    def check_end(self) -> None:
        if self.next != (self.pieces, 0):
            raise MusiqError(f"Ray ended before part {self.next[0]} of {self.pieces} was whole. Run it again.")


def _read(batch: dict[str, Any]) -> Iterator[pa.Table]:
    """The records of one piece, as tables of a bounded size."""
    number, (piece, folder) = int(batch["piece"][0]), pickle.loads(batch["content"][0])
    ahead = _with_last(records(piece, folder))
    table: list[tuple[int, bool, Record]] = []
    size = 0
    for row, (record, last) in enumerate(ahead):
        table.append((row, last, record))
        size += len(record.data or b"")
        if last or len(table) == BATCH_IMAGES or size >= BATCH_BYTES:
            yield _table(number, table)
            table, size = [], 0


def _with_last(items: Iterable[Record]) -> Iterator[tuple[Record, bool]]:
    """Each item and whether it is the last."""
    iterator = iter(items)
    before = next(iterator)
    for item in iterator:
        yield before, False
        before = item
    yield before, True


def _table(piece: int, rows: list[tuple[int, bool, Record]]) -> pa.Table:
    import pyarrow as pa

    columns = {
        "piece": pa.array([piece] * len(rows), pa.int64()),
        "row": pa.array([row for row, _, _ in rows], pa.int64()),
        "last": pa.array([last for _, last, _ in rows], pa.bool_()),
        "name": pa.array([os.fsencode(record.name) for _, _, record in rows], pa.binary()),  # any bytes are a path
        "data": pa.array([record.data for _, _, record in rows], pa.large_binary()),
        "error": pa.array([record.error for _, _, record in rows], pa.string()),
    }
    return pa.table(columns)


class _ScoreRecords:
    """Scores the tables of `_read`: a path where there are no bytes, nothing where there was an error already."""

    def __init__(self, folder: str, model: list[str], device: str, **options: Any) -> None:
        self.folder = folder
        self.scorer = open_scorer(model, device, **options)

    def __call__(self, table: pa.Table) -> pa.Table:
        import pyarrow as pa

        columns = (table[name].to_pylist() for name in ("name", "data", "error"))
        found = [Record(os.fsdecode(name), data, error) for name, data, error in zip(*columns, strict=True)]
        scored = iter(list(self.scorer.score_many(self._source(record) for record in found if not record.error)))
        rows = [Row("", None, error=record.error) if record.error else next(scored) for record in found]
        outcome = {"model": pa.array([row.model for row in rows], pa.string())}
        outcome |= arrow_columns(rows, self.scorer.spec.outputs)
        return pa.table({name: table[name] for name in ("piece", "row", "last", "name")} | outcome)

    def _source(self, record: Record) -> Source:
        return located(record.name, self.folder) if record.data is None else record.data


def _connect(address: str | None) -> bool:
    """Whether a cluster was started or joined here, and so is to be left at the end."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray reports its use to its makers, and says so
    ray = _ray()
    if address is None and ray.is_initialized():
        return False
    own = {} if address else {"num_cpus": available_cpus(), "include_dashboard": False}
    try:
        _knock(address or "")
        ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **own)
    except Exception as problem:  # Ray's, gRPC's and the operating system's own
        where = f"reach the Ray cluster at {address}" if address else "start Ray on this machine"
        raise MusiqError(f"Cannot {where}: {_reason(problem)}. Check the address and that Ray runs there.") from problem
    return True


def _knock(address: str) -> None:
    """Raise OSError where nobody listens at HOST:PORT: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()


def _settle_ray_data() -> None:
    """Rows in order, and nothing of Ray's own on the terminal."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _reason(problem: BaseException) -> str:
    """The line that says most: that of this package's own error where there is one, else the last of Ray's."""
    cause: BaseException | None = problem
    while cause is not None and not isinstance(cause, MusiqError):
        cause = getattr(cause, "cause", None) or cause.__cause__
    lines = [line.strip() for line in str(cause or problem).splitlines() if line.strip()]
    return lines[-1] if lines else type(problem).__name__


def _ray() -> Any:
    try:
        import ray
        import ray.data
        import ray.exceptions
    except ImportError as problem:
        raise MusiqError(f"The Ray engine needs Ray ({problem}): pip install 'musiq[ray]'.") from problem
    return ray
