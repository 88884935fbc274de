"""Writes MODEL_CARD.md: what a trained model is for, what it learned from, how good it is there, what it cannot tell."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from musiq.datasets.dataset import Dataset
from musiq.datasets.public import DATASETS
from musiq.files import atomic_write
from musiq.markdown import table
from musiq.presets import PRESETS
from musiq.training.recipe import Recipe
from musiq.version import __version__

SHOWN = {"srcc": "SRCC", "plcc": "PLCC", "plcc_fitted": "PLCC (fitted)", "krcc": "KRCC", "rmse": "RMSE"}

NOT_STATED = "not stated with the labels: ask whoever published them"

CARD = """# {preset}, trained on {target}

Predicts how good people would find a photograph. `best.safetensors` is for images of {width}x{height} pixels; others are
resized to cover that and cropped.

{facts}

## Figures

On the test split, by the checkpoint of epoch {best_epoch}, {chosen}. In brackets: 95%
intervals, bootstrap over images.

{figures}

## Limits

- The score speaks of images like those it learned from. For others (another camera, another kind of distortion, another
  taste) nobody has measured it.
- Two images whose scores differ by less than the RMSE above may well be liked the other way round.
- Labels are averages of some people's opinions. The score knows nothing of content, consent or truth, and is not fit to
  judge people.
- Whether this model may be passed on or used commercially depends on the terms of the data, and of the weights that it
  started from.
"""


def terms_of(data: Sequence[str]) -> str:
    """The terms of the datasets that `--data` names, as far as they are known here."""
    named = [DATASETS[name] for name in (one.partition("=")[0] for one in data) if name in DATASETS]
    return "; ".join(f"{one.title}: {one.terms} ({one.home})" for one in named) or NOT_STATED


def write_card(folder: Path, recipe: Recipe, dataset: Dataset, metrics: dict[str, Any]) -> None:
    """MODEL_CARD.md of a run's folder; `metrics` are those of metrics.json."""
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    card = CARD.format(
        preset=recipe.preset,
        width=recipe.width,
        height=recipe.height,
        target=dataset.target,
        facts=fact_table(recipe, dataset, record["labels"].get("terms", NOT_STATED)),
        best_epoch=metrics["best_epoch"],
        chosen="the best by SRCC on the validation split" if recipe.train_on == "train" else "the last one",
        figures=figure_table(metrics),
    )
    with atomic_write(folder / "MODEL_CARD.md") as part:
        part.write_text(card, encoding="utf-8")


def fact_table(recipe: Recipe, dataset: Dataset, terms: str) -> str:
    """A Markdown table: what the model learned, from what, and how."""
    known = dataset.score_range
    facts = {
        "target": dataset.target,
        "score range": f"{known[0]:g} (worst) to {known[1]:g} (best)" if known else "not known",
        "images": f"{dataset.counts()}; which is which: `split.csv`",
        "terms of the data": terms,
        "starts from": starts_from(recipe),
        "recipe": f"{recipe.epochs} epochs, batches of {recipe.batch_size}, loss {recipe.loss}, lr {recipe.lr:g}, seed "
        f"{recipe.seed}; all of it: `run.json`",
        "made by": f"musiq {__version__}, train.py",
    }
    return table(["", ""], facts.items())


def starts_from(recipe: Recipe) -> str:
    """Where the weights came from before training."""
    if recipe.start:
        return f"`{Path(recipe.start).name}`"
    trunk = recipe.trunk or PRESETS[recipe.preset].trunk
    whose = "torchvision's ImageNet weights (V1)" if trunk == "resnet50" else f"ImageNet weights of {trunk}"
    named = {"none": "random weights", "download": f"{whose} for the trunk"}
    return named.get(recipe.trunk_weights, f"`{Path(recipe.trunk_weights).name}` for the trunk")


def figure_table(metrics: dict[str, Any]) -> str:
    """A Markdown table: all test images, and those without near duplicates where the labels mark them."""
    sets = {"all test images": metrics, "without near duplicates": metrics.get("without_near_duplicates")}
    rows = [
        [name, str(found["n"]), *(figure_cell(found, key) for key in SHOWN)] for name, found in sets.items() if found
    ]
    return table(["", "n", *SHOWN.values()], rows)


def figure_cell(found: dict[str, Any], key: str) -> str:
    """ "0.7047 (0.651 to 0.752)", or why there is no figure."""
    if found[key] is None:
        return str(found["undefined"] or "no fit")
    ends = found.get(f"{key}_interval")
    return f"{found[key]:.4f}" + (f" ({ends[0]:.3f} to {ends[1]:.3f})" if ends else "")
