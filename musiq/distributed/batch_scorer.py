"""Scoring inside engines of many machines: `BatchScorer` for Ray Data, `kept_scorer` for Spark's Python workers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from musiq.distributed.shards import pick_column
from musiq.images.decode import MAX_PIXELS, Background
from musiq.scoring import Row, Scorer, ScorerOptions
from musiq.scoring.open_models import Model
from musiq.scoring.options import DEFAULTS
from musiq.scoring.plan import MAX_TOKENS
from musiq.spec import share_columns

if TYPE_CHECKING:
    import pyarrow as pa


class BatchScorer:
    """Scores batches of a Ray dataset (`map_batches`), or of anything else that gives columns.

        ds.map_batches(BatchScorer, fn_constructor_kwargs={"model": "model.onnx"}, batch_size=64, num_cpus=2,
                       compute=ray.data.ActorPoolStrategy(min_size=1, max_size=4))

    The model is opened once, by the constructor, so once an actor; pickled, it is opened again where it is unpickled. It
    has to lie at the same path on every machine.

    Attributes:
        column: The column of images that was asked for, None for the first of those known.
        scorer: The `musiq.Scorer` at work.
    """

    def __init__(
        self,
        model: Model | Sequence[Model],
        *,
        column: str | None = None,
        device: str = "auto",
        threads: int | None = None,
        batch_size: int | None = None,
        mode: str = "latency",
        resize: str | None = None,
        max_pixels: int = MAX_PIXELS,
        max_tokens: int = MAX_TOKENS,
        background: Background = "white",
        reduced_jpeg: bool = False,
        jpeg_decoder: str = "opencv",
    ) -> None:
        """Open the model.

        Args:
            model: The path of an artifact or checkpoint, or several, as `musiq.load` takes them.
            column: The column of images: bytes of files, paths, or uint8 arrays (H, W, 3) of one size or of many, in Arrow
                also as lists. None: the first of `bytes`, `image`, `path` that a batch has.
            device: As for `musiq.load`; inside Ray "auto" means a GPU only where the actor was given one (`num_gpus`).
            threads: Threads that decode, and as many that compute. None: inside Ray the CPUs that it gave the actor
                (`num_cpus`), elsewhere those that this process may use.
            batch_size: As for `musiq.load`, and so are those that follow.
            mode: "latency" or "throughput".
            resize: "native", "longer=N" or "shorter=N" for a model of any size; None for what the model brings.
            max_pixels: An image of more pixels is not decoded.
            max_tokens: An image of more tokens in a model of any size is not scored.
            background: "white" or "black".
            reduced_jpeg: Decode large JPEGs at a part of their size.
            jpeg_decoder: "opencv" or "nvimagecodec".

        Raises:
            MusiqError: The model cannot be opened.
        """
        options = ScorerOptions(
            device=device,
            batch_size=batch_size,
            workers=threads,
            threads=threads,
            mode=mode,
            resize=resize,
            max_pixels=max_pixels,
            max_tokens=max_tokens,
            background=background,
            reduced_jpeg=reduced_jpeg,
            jpeg_decoder=jpeg_decoder,
        )
        self._model, self._options = model, options
        self.column = column
        self.scorer = open_scorer(model, options)

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        options = asdict(self._options)
        for name in ("workers", "frames", "per_frame"):  # which are no parameters here
            del options[name]
        return partial(BatchScorer, self._model, column=self.column, **options), ()

    def __call__(self, batch: Any) -> Any:
        """Score a batch; an image that cannot be scored is a row with its error.

        Args:
            batch: A dict of numpy arrays, a pyarrow.Table or a pandas.DataFrame of N rows.

        Returns:
            The batch in its kind, rows in order, with these columns added, or replaced where it has them: path (the
            batch's own or what was scored; "" for bytes alone), score (float32, in the units of `spec.target`; null in a
            Table, else NaN, where there is none), size (what the model saw), fitted, error ("" or why there is no score),
            and share_1 to share_K (float32 in [0, 1]) for models that predict a distribution.

        Raises:
            MusiqError: The batch has no column of images.
        """
        names = list(getattr(batch, "column_names", batch))
        column = pick_column(names, self.column, "The batch")
        sources = [_as_array(value) for value in _values(batch, column)]
        paths = _values(batch, "path") if "path" in names else [s if isinstance(s, str) else "" for s in sources]
        return _joined(batch, paths, list(self.scorer.score_many(sources)), self.scorer.spec.outputs)


def _values(batch: Any, column: str) -> list[Any]:
    values = batch[column]
    return list(values.to_pylist() if hasattr(values, "to_pylist") else values)


def _as_array(value: Any) -> Any:
    """Pixels that came as lists; what is none of an image stays as it is, and will be its row's error."""
    if not isinstance(value, list):
        return value
    try:
        return np.array(value, np.uint8)
    except (ValueError, TypeError, OverflowError):
        return value


def _joined(batch: Any, paths: list[Any], rows: list[Row], outputs: int) -> Any:
    if hasattr(batch, "column_names"):
        import pyarrow as pa

        own = {name: batch[name] for name in batch.column_names}
        return pa.table(own | {"path": pa.array(paths, pa.string())} | arrow_columns(rows, outputs))
    columns = {"path": np.array(paths, object), **numpy_columns(rows, outputs)}
    return {**batch, **columns} if isinstance(batch, dict) else batch.assign(**columns)


def numpy_columns(rows: list[Row], outputs: int) -> dict[str, NDArray[Any]]:
    """score, size, fitted, error and share_k of the rows; NaN where there is no score."""
    numbers, texts = _columns(rows, outputs)
    return {name: np.array(values, object) for name, values in texts.items()} | {
        name: np.array(values, np.float32) for name, values in numbers.items()
    }


def arrow_columns(rows: list[Row], outputs: int) -> dict[str, pa.Array]:
    """score, size, fitted, error and share_k of the rows; null where there is no score."""
    import pyarrow as pa

    numbers, texts = _columns(rows, outputs)
    return {name: pa.array(values, pa.string()) for name, values in texts.items()} | {
        name: pa.array(values, pa.float32()) for name, values in numbers.items()
    }


def _columns(rows: list[Row], outputs: int) -> tuple[dict[str, list[float | None]], dict[str, list[str]]]:
    """The numbers and the texts of the rows, column by column."""
    numbers = {"score": [row.score for row in rows]}
    for place, name in enumerate(share_columns(outputs)):
        numbers[name] = [row.shares[place] if row.shares else None for row in rows]
    return numbers, {name: [getattr(row, name) for row in rows] for name in ("size", "fitted", "error")}


def open_scorer(model: Model | Sequence[Model], options: ScorerOptions) -> Scorer:
    """A Scorer that keeps to what Ray gave the actor it is opened in: its CPUs, and "auto" is its GPU or none.

    As many threads decode as compute.
    """
    given = ray_resources()
    if given is not None:
        threads = options.threads or max(1, int(given.get("CPU", 1)))
        device = "cpu" if options.device == "auto" and not given.get("GPU") else options.device
        options = replace(options, threads=threads, device=device)
    return Scorer(model, **asdict(replace(options, workers=options.threads)))


def ray_resources() -> dict[str, float] | None:
    """What Ray gave the task or actor that this runs in; None outside of one."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized() or ray.get_runtime_context().get_task_id() is None:
        return None
    resources: dict[str, float] = ray.get_runtime_context().get_assigned_resources()
    return resources


@cache
def kept_scorer(model: str, options: ScorerOptions = DEFAULTS) -> Scorer:
    """A Scorer opened once a process and kept, for engines that reuse their worker processes: Spark's Python workers.

    Args:
        model: The path of an artifact or checkpoint, the same on every machine.
        options: Those of the Scorer; the same value gives the same Scorer.

    Returns:
        The Scorer of this process; nobody closes it.

    Raises:
        MusiqError: The model cannot be opened.
    """
    return Scorer(model, **asdict(options))
