"""The maps that a frozen part of a trunk makes of each image, computed once and read in every epoch."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from contextlib import suppress

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from musiq.errors import MusiqError
from musiq.model.network import Musiq
from musiq.terminal import progress_bar
from musiq.training import run_folder
from musiq.training.dataloader import LabelledImages, is_mirrored, load_batches
from musiq.training.run import Run, StopAskedError
from musiq.training.trunk.stages import CutTrunk, scale_shapes

FILE, STATE = "frozen-maps.bin", "frozen-maps.json"


class CachedRows(Dataset[tuple[int, "Tensor | str"]]):
    """Rows of cached maps in the place of `LabelledImages`, float32 (L,), or why there is none.

    Args:
        rows: Of every image, (n, L); an image and its mirror image one after the other where `flips` may be.
        problems: By row.
        first: The row of the first image.
        flips: As of `LabelledImages`; None for the images as they are.
        step: Rows of an image.
    """

    def __init__(
        self,
        rows: NDArray[np.float32],
        problems: dict[int, str],
        first: int = 0,
        flips: tuple[int, int] | None = None,
        step: int = 1,
    ) -> None:
        self.rows, self.problems, self.first, self.flips, self.step = rows, problems, first, flips, step

    def __getitem__(self, index: int) -> tuple[int, Tensor | str]:
        row = self.first + index * self.step
        if row in self.problems:
            return index, self.problems[row]
        mirrored = self.flips is not None and is_mirrored(self.flips, index)
        return index, torch.from_numpy(np.array(self.rows[row + mirrored]))


class CachedMaps:
    """The cache of a run, in its folder.

    Attributes:
        rows: float32 (n, L), mapped into memory.
    """

    def __init__(self, run: Run, model: Musiq) -> None:
        """Open the cache, or begin it. Raises MusiqError where the disk has no room for it.

        Args:
            run: With `Recipe.freeze`.
            model: On the accelerator's device.
        """
        self._run, self._model, self._cut = run, model, CutTrunk.of(model)
        self._train, recipe = run.train_items, run.recipe
        self._items = [*self._train, *(run.dataset.split("val") if recipe.train_on == "train" else [])]
        self._step = 2 if recipe.flip else 1
        self._path, self._state = run.folder / FILE, run.folder / STATE
        length = sum(math.prod(shape) for scale in scale_shapes(self._cut, model) for shape in scale.maps)
        shape = len(self._train) * self._step + len(self._items) - len(self._train), length
        if run.is_main:
            self._begin(shape)
        run.accelerator.wait_for_everyone()
        self.rows: NDArray[np.float32] = np.memmap(self._path, np.float32, "r+" if run.is_main else "r", shape=shape)
        if run.is_main:
            self._fill()
        run.accelerator.wait_for_everyone()
        self._problems = {int(row): line for row, line in json.loads(self._state.read_text())["problems"].items()}

    def train(self, flips: tuple[int, int] | None) -> CachedRows:
        """The training images, mirrored for half of `flips`."""
        return CachedRows(self.rows, self._problems, 0, flips, self._step)

    def validation(self) -> CachedRows:
        """The validation images."""
        return CachedRows(self.rows, self._problems, len(self._train) * self._step)

    def remove(self) -> None:
        """Delete the files."""
        if self._run.is_main:
            for path in (self._path, self._state):
                with suppress(OSError):
                    path.unlink(missing_ok=True)

    def _begin(self, shape: tuple[int, int]) -> None:
        """Keep what was computed of the same maps; else make the file anew."""
        key, needed = self._key(), shape[0] * shape[1] * 4
        with suppress(OSError, ValueError):
            if json.loads(self._state.read_text())["key"] == key and self._path.stat().st_size == needed:
                return
        self._path.unlink(missing_ok=True)
        free = shutil.disk_usage(self._run.folder).free
        where = f"{needed / 1e9:.2f} GB in {self._path}"
        if needed > free:
            raise MusiqError(
                f"--cache-frozen needs {where}, where {free / 1e9:.2f} GB are free. Make room, freeze more, give smaller "
                "--height and --width or --no-flip, or leave the option out."
            )
        click.echo(f"The maps of the frozen part are computed once: {where}, removed at the end of training.")
        np.memmap(self._path, np.float32, "w+", shape=shape).flush()
        run_folder.write_json(self._state, {"key": key, "done": 0, "problems": {}})

    def _key(self) -> str:
        """Of what decides the maps: weights, images, sizes."""
        found = hashlib.sha256(self._model.spec.to_json().encode())
        recipe = self._run.recipe
        found.update(repr((recipe.freeze, recipe.flip, [str(item.path) for item in self._items])).encode())
        for step in self._cut.frozen:
            for name, value in step.module.state_dict().items():
                found.update(name.encode() + value.cpu().numpy().tobytes())
        return found.hexdigest()

    def _fill(self) -> None:
        """Compute what is not done yet, a batch of images at a time. Raises StopAskedError, with what is done kept, where a
        signal asked for a stop."""
        state, size, run = json.loads(self._state.read_text()), self._run.recipe.batch_size, self._run
        batches = [
            [*range(at, min(at + size, len(self._items)))] for at in range(state["done"], len(self._items), size)
        ]
        images = LabelledImages(self._items, run.recipe.height, run.recipe.width)
        self._model.eval()
        with progress_bar("frozen maps", len(self._items), done=state["done"]) as bar, torch.inference_mode():
            loaded = load_batches(images, batches, run.workers)
            for chosen, (batch, indices, problems) in zip(batches, loaded, strict=True):
                lost = [index for index in chosen if index not in set(indices.tolist())]
                for index, line in zip(lost, problems, strict=True):
                    state["problems"].update({str(self._row(index)): line})
                for mirrored in range(self._step if len(indices) else 0):
                    mine = [at for at, index in enumerate(indices.tolist()) if not mirrored or index < len(self._train)]
                    given = batch[mine].to(run.accelerator.device)
                    if mine:
                        found = self._maps(given.flip(2) if mirrored else given)
                        self.rows[[self._row(int(indices[at])) + mirrored for at in mine]] = found
                self.rows.flush()  # type: ignore[attr-defined]
                state["done"] = chosen[-1] + 1
                run_folder.write_json(self._state, state)
                bar.advance(len(chosen))
                if run.stop_asked:
                    raise StopAskedError(
                        f"Stopped with the frozen part's maps of {state['done']} of {len(self._items)} images computed."
                    )

    def _row(self, index: int) -> int:
        """The first row of an image."""
        return index * self._step if index < len(self._train) else len(self._train) * (self._step - 1) + index

    def _maps(self, images: Tensor) -> NDArray[np.float32]:
        # What is between a trunk's layers fits a CPU's caches for one image: a third faster than for a batch.
        parts = images.split(1) if images.device.type == "cpu" else [images]
        return torch.cat([self._maps_of(part) for part in parts]).cpu().numpy()

    def _maps_of(self, images: Tensor) -> Tensor:
        with self._run.accelerator.autocast():
            scales = self._cut.trunk.padded(self._model.pyramid(images))
            return torch.cat([x.flatten(1).float() for scale in scales for x in self._cut.maps(scale)], dim=1)
