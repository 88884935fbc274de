"""`RayScorer`, what `musiq-score --engine ray` runs: files, Parquet and tars read and scored over a Ray cluster."""

from __future__ import annotations

import logging
import os
import pickle
import socket
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from musiq.artifact import read_record
from musiq.distributed.ray_tasks import BATCH_IMAGES, ScoreImages, read_shard
from musiq.distributed.row_order import each_once_in_order
from musiq.distributed.shards import Piece, split_sources
from musiq.errors import MusiqError, pip_install
from musiq.hardware import available_cpus
from musiq.scoring import Row, Scorer, ScorerOptions
from musiq.scoring.model_choice import check_mixture
from musiq.scoring.options import DEFAULTS
from musiq.scoring.plan import policy_for
from musiq.spec import Spec, share_columns

if TYPE_CHECKING:
    import ray

READERS = 8
"""Tasks that read at once; reading waits for disks and networks, so they ask for no CPU."""
CONNECT_S = 10
"""How long to wait for a cluster's address to answer."""
TASKS = 512
"""Reading tasks, each of one or more pieces: enough for any cluster, few enough for Ray to plan at once."""


class RayScorer:
    """`Scorer.score_many` over a Ray cluster, and over Parquet files and WebDataset tars too.

    Ray starts as many actors as help and the cluster has room for. They open the model and the images: both have to lie
    at the same paths on every machine (images may be URLs), where this package is installed too.

    A context manager: leaving it stops the cluster where this started it, and leaves it where it was running.

    Attributes:
        spec: What the first model is.
        resize: The resize policy in force: "native", "cover", "longer=512".
    """

    def __init__(
        self,
        model: Path | Sequence[Path],
        options: ScorerOptions = DEFAULTS,
        *,
        address: str | None = None,
        column: str | None = None,
    ) -> None:
        """Connect to the cluster.

        Args:
            model: An artifact or checkpoint, or several of different shapes.
            options: Those of each actor's Scorer. Its `threads` are an actor's CPUs (None: 1), which decode too, so that
                `workers` counts for nothing; where its `device` names a GPU, each actor has one.
            address: A running cluster's. None: the one that this process is connected to, or one started on this machine
                for as long as this lives.
            column: The column of images in Parquet files; None: the first of `bytes`, `image`, `path`.

        Raises:
            MusiqError: A model cannot be opened, the cluster cannot be reached, or it is too small.
        """
        self.column, self.threads = column, options.threads or 1
        models = [model] if isinstance(model, Path) else list(model)
        self._models = {os.path.abspath(each): str(each) for each in models}
        self._options = options
        self._gpus = 0 if options.device in ("auto", "cpu") else 1
        specs = [_spec(each, options.device) for each in models]
        check_mixture([str(each) for each in models], specs)
        self.spec = specs[0]
        self.resize = str(policy_for(options.resize, self.spec, str(models[0])))
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
        """Score images in their order.

        A worker that dies is started again and its batch is scored again, as often as it takes (Ray's default).

        Args:
            sources: Paths and URLs of images, folders, *.parquet and *.tar.

        Yields:
            A Row for each image; one that cannot be scored, and a shard that cannot be read, has its error.

        Raises:
            MusiqError: Ray cannot go on, or it lost or doubled a row.
        """
        pieces = list(split_sources(sources, self.column))
        if not pieces:
            return
        try:
            blocks: Any = self._scored(pieces).iter_batches(batch_size=None, batch_format="pyarrow")
            rows = (values for block in blocks for values in block.to_pylist())
            for values in each_once_in_order(rows, len(pieces)):
                yield self._row(values)
        except _ray().exceptions.RayError as problem:
            raise MusiqError(f"Ray could not go on: {_reason(problem)}") from problem

    def _scored(self, pieces: list[Piece]) -> ray.data.Dataset:
        from ray.data import ActorPoolStrategy, TaskPoolStrategy, from_items

        _configure_ray_data()
        items = [
            {"piece": number, "content": pickle.dumps((piece, os.getcwd()))} for number, piece in enumerate(pieces)
        ]
        tasks = min(len(items), TASKS)
        read = from_items(items, override_num_blocks=tasks).map_batches(
            read_shard, batch_size=1, batch_format="numpy", num_cpus=0, compute=TaskPoolStrategy(min(tasks, READERS))
        )
        return read.map_batches(
            ScoreImages,
            fn_constructor_kwargs={
                "folder": os.getcwd(),  # workers have another working folder
                "models": list(self._models),
                "options": self._options,
            },
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
            values["size"],
        )


def _spec(model: Path, device: str) -> Spec:
    """That of the record, or of the model itself; raises MusiqError for what no worker could open either."""
    record = read_record(model) if model.is_file() else None
    if record is not None:
        return record.spec
    with Scorer(model, device) as scorer:
        return scorer.spec


def _connect(address: str | None) -> bool:
    """Whether a cluster was started or joined here, and so is to be left at the end."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray reports its use to its makers, and says so
    ray = _ray()
    if address is None and ray.is_initialized():
        return False
    own = {} if address else {"num_cpus": available_cpus(), "include_dashboard": False}
    try:
        _check_listening(address or "")
        ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **own)
    except Exception as problem:  # Ray's, gRPC's and the operating system's own
        where = f"reach the Ray cluster at {address}" if address else "start Ray on this machine"
        raise MusiqError(f"Cannot {where}: {_reason(problem)}. Check the address and that Ray runs there.") from problem
    return True


def _check_listening(address: str) -> None:
    """Raise OSError where nobody listens at HOST:PORT: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()


def _configure_ray_data() -> None:
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
        raise MusiqError(f"The Ray engine needs Ray ({problem}): {pip_install('ray')}.") from problem
    return ray
