"""The model that training begins with, or goes on with: its Spec, its first weights, and all that is put around it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor

from musiq.datasets.dataset import Dataset
from musiq.errors import MusiqError
from musiq.model import checkpoint
from musiq.model.network import Musiq, TimmTrunk
from musiq.model.timm_features import pixel_statistics
from musiq.presets import PRESETS, preset
from musiq.published import checkpoint_path
from musiq.spec import Spec
from musiq.terminal import progress_bar
from musiq.training.dataloader import LabelledImages, epoch_order, load_batches
from musiq.training.model_wrappers import weight_average, wrap_model
from musiq.training.optimizer import build_optimizer
from musiq.training.pretrained_trunk import Loaded, all_norms, freeze_trunk, load_trunk
from musiq.training.recipe import Recipe
from musiq.training.run import Learner, Run
from musiq.training.trunk.cached_maps import CachedMaps
from musiq.training.trunk.projection import IMAGES, standardise_projection
from musiq.training.trunk.stages import CutTrunk
from musiq.training.trunk.windows import pass_in_steps


def build_model(recipe: Recipe, dataset: Dataset, resumed: bool = False) -> tuple[Musiq, list[str], str]:
    """The model to begin with, whose Spec tells how to read its score in the labels' own units; which of its batch norms
    keep the statistics that came with their weights; and a line about trunk weights that were missing.

    `resumed` leaves the trunk's weights out: those of the run come over them.
    """
    model, frozen, missing = _built(recipe, dataset, resumed)
    if recipe.window < 1:
        CutTrunk.of(model)  # which says of a trunk that has no windows why not
    return model, frozen, missing


def _built(recipe: Recipe, dataset: Dataset, resumed: bool) -> tuple[Musiq, list[str], str]:
    torch.manual_seed(recipe.seed)
    if recipe.start is None:
        spec = preset(recipe.preset, recipe.height, recipe.width)
        model = Musiq(training_spec(with_trunk(spec, recipe.trunk), recipe, dataset))
        trunk = Loaded() if resumed else load_trunk(model, recipe.trunk_weights)
        frozen = trunk.complete_norms if recipe.batch_norm == "frozen" else []
        return model, sorted({*frozen, *freeze_trunk(model, recipe.freeze)}), trunk.missing
    start = checkpoint.load(checkpoint_path(recipe.start), recipe.height, recipe.width)
    model = Musiq(training_spec(start.spec, recipe, dataset))
    # All but the head, which predicted another target.
    body = {name: value for name, value in start.state_dict().items() if not name.startswith("head.")}
    model.load_state_dict(body, strict=False)
    frozen = all_norms(model) if recipe.batch_norm == "frozen" else []
    return model, sorted({*frozen, *freeze_trunk(model, recipe.freeze)}), ""


def with_trunk(spec: Spec, trunk: str | None) -> Spec:
    """A Spec with a trunk of timm's, and the statistics of pixels that its ImageNet weights were trained with; the same for
    None."""
    if trunk is None:
        return spec
    spec = dataclasses.replace(spec, trunk=trunk)
    mean, std = pixel_statistics(spec.timm_name)
    return dataclasses.replace(spec, mean=mean, std=std)


def training_spec(spec: Spec, recipe: Recipe, dataset: Dataset) -> Spec:
    """With one output the head learns z-scores of the training labels, with K the shares of the ratings 1..K."""
    labels = np.array([item.mos for item in dataset.training(recipe.train_on)])
    shift, scale = (float(labels.mean()), float(labels.std())) if recipe.outputs == 1 else (0.0, 1.0)
    if scale == 0:
        raise MusiqError(f"All {len(labels)} training labels are {labels[0]:g}: there is nothing to learn from them.")
    # The scales that a start had, unless others are asked for: its embeddings are those of the whole pyramid.
    scales = PRESETS[spec.preset].scales if recipe.scales == "pyramid" else spec.scales
    if recipe.scales == "native":
        scales = tuple(scale for scale in scales if scale.length is None)
    return dataclasses.replace(
        spec,
        scales=scales,
        outputs=recipe.outputs,
        score_shift=shift,
        score_scale=scale,
        score_range=dataset.score_range,
        target=dataset.target,
        source="train.py" + (f", from {Path(recipe.start).name}" if recipe.start else ""),
    )


def set_train_mode(model: Musiq, frozen: Sequence[str]) -> None:
    """Training mode, but `frozen` batch norms keep the statistics that came with the trunk's weights: those of small
    batches are poor, and the scales of a pyramid would mix theirs."""
    model.train()
    for name in frozen:
        model.get_submodule(name).eval()


def prepare_learner(run: Run) -> Learner:
    """As the saved state left it or at its beginning, on the accelerator's device, over all processes."""
    accelerator, recipe, parts = run.accelerator, run.recipe, run.parts
    model, frozen, missing = run.initial or build_model(recipe, run.dataset, resumed=bool(parts))
    run.initial = None
    if not parts and recipe.start is None and isinstance(model.trunk, TimmTrunk):
        standardise_projection(model.to(accelerator.device), first_images(run))
    optimizer = build_optimizer(recipe, model)
    average = weight_average(model, recipe.ema)
    if parts:
        model.load_state_dict(parts["model"])
        if average is not None:
            average.load_state_dict(parts["average"])
    else:
        run.state.frozen_norms = frozen
    if missing and run.is_main:
        click.echo(missing)
    if average is not None:
        average.to(accelerator.device)
    wrap_model(model, recipe, accelerator.device)
    learner = Learner(model, model, optimizer, average)
    uses_cache = run.cache_frozen and run.state.epoch < recipe.epochs
    if recipe.window < 1 or uses_cache:
        for each in {id(one): one for one in (model, learner.kept)}.values():
            pass_in_steps(each.to(accelerator.device), recipe.window)
    learner.wrapped, learner.optimizer = accelerator.prepare(model, optimizer)
    if uses_cache:
        run.maps = CachedMaps(run, model)
    if parts:
        learner.optimizer.load_state_dict(parts["optimizer"])
        if accelerator.scaler is not None and parts["scaler"]:
            accelerator.scaler.load_state_dict(parts["scaler"])
    run.parts = {}  # as large as the model and its optimiser together
    return learner


def first_images(run: Run) -> Iterator[Tensor]:
    """Batches of the first training images in the order of the first epoch, on the accelerator's device."""
    recipe, items = run.recipe, run.train_items
    order = epoch_order(len(items), recipe.seed, 0)[:IMAGES]
    batches = [order[at : at + recipe.batch_size] for at in range(0, len(order), recipe.batch_size)]
    images = LabelledImages(items, recipe.height, recipe.width)
    with progress_bar("channels of the trunk", len(order), quiet=not run.is_main) as bar:
        for batch, indices, problems in load_batches(images, batches, run.workers):
            if len(indices):
                yield batch.to(run.accelerator.device)
            bar.advance(len(indices) + len(problems))
