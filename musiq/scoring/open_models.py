"""Opening the models of a `Scorer`: one, or several of different shapes whose scores mean the same."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from musiq.bundled import default_model
from musiq.errors import MusiqError
from musiq.published import model_path
from musiq.runtimes.base import Runtime
from musiq.runtimes.registry import open_runtime
from musiq.scoring.model_choice import check_mixture
from musiq.scoring.plan import policy_for

Model = str | Path | Runtime
"""An artifact or checkpoint by its path, a published model by its name, or a Runtime that is open already."""


def each_model(model: Model | Sequence[Model] | None) -> list[Model]:
    """The models that one value means, None the default one. Raises MusiqError for what is neither a path nor a Runtime."""
    if model is None:
        return [default_model()]
    models = [model] if isinstance(model, (str, bytes)) or not isinstance(model, Sequence) else list(model)
    for each in models:
        if not isinstance(each, (str, Path)) and not hasattr(each, "spec"):
            raise MusiqError(
                f"Cannot open {each!r} as a model: give the path of an artifact or checkpoint, an open Runtime, or a list "
                "of them."
            )
    return [model_path(each) if isinstance(each, (str, Path)) else each for each in models]


def model_name(model: Model, index: int) -> str:
    """What rows call a model: its path as given; #0, #1, ... for a Runtime."""
    return os.fspath(model) if isinstance(model, (str, Path)) else f"#{index}"


def open_models(
    models: Sequence[Model], device: str, threads: int | None, mode: str, resize: str | None = None
) -> list[Runtime]:
    """All of them, or none: those that are open are closed where one cannot be opened or does not go with the others."""
    if not models:
        raise MusiqError("There is no model to score with; give one or more.")
    runtimes: list[Runtime] = []
    try:
        for model in models:
            runtimes.append(_open(model, device, threads, mode))
        names = [model_name(model, index) for index, model in enumerate(models)]
        check_mixture(names, [each.spec for each in runtimes])
        policy_for(resize, runtimes[0].spec, names[0])
    except BaseException:
        for runtime, model in zip(runtimes, models, strict=False):
            if isinstance(model, (str, Path)):  # a Runtime given open is its giver's
                runtime.close()
        raise
    return runtimes


def _open(model: Model, device: str, threads: int | None, mode: str) -> Runtime:
    if not isinstance(model, (str, Path)):
        return model
    return open_runtime(Path(model), device, threads, mode)
