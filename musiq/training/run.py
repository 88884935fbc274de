"""The state of a training run in memory: what the loop touches, how it is saved, stopped by signals, and logged."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from torch import nn
from torch.optim.swa_utils import AveragedModel

from musiq.datasets.dataset import SPLITS, Dataset, Labelled, dataset_numbers, missing
from musiq.errors import MusiqError, is_memory_short
from musiq.model.network import Musiq
from musiq.training import run_folder
from musiq.training.dataloader import check_shared_memory, end_workers
from musiq.training.losses import ON_PAIRS, check_pairs, parse
from musiq.training.recipe import Recipe
from musiq.training.run_folder import State

TOLERATED = 0.1
"""The share of an epoch's, or of a split's, images that may be unreadable."""


class StopAskedError(Exception):
    """A signal asked for a stop; the state is saved."""


@dataclass
class Run:
    """All that the loop touches.

    Attributes:
        accelerator: accelerate's, of this process.
        recipe: What decides the weights.
        dataset: The labelled images, each in a split.
        folder: Where everything is written.
        workers: Processes that decode images; 0: this one does.
        save_every: Minutes between saved states within an epoch.
        cache_frozen: Whether the maps of the trunk's frozen part are kept in a file while it trains.
        state: Where the run stands.
        parts: State dicts by which the run goes on: of model, average, optimizer, gradient scaler; {} at its beginning.
        saved_at: When the state was saved last, by `time.monotonic`.
        lost: Images of the last step's batch that could not be read, over all processes.
        log: TensorBoard's writer, or None.
        stop_asked: Whether a signal came.
        maps: Those, once the model is there (`musiq.training.trunk.cached_maps.CachedMaps`).
        initial: Of a new run what `musiq.training.initial_model.build_model` made, until the training takes it.
    """

    accelerator: Any
    recipe: Recipe
    dataset: Dataset
    folder: Path
    workers: int
    save_every: float
    cache_frozen: bool = False
    state: State = field(default_factory=State)
    parts: dict[str, Any] = field(default_factory=dict)
    saved_at: float = field(default_factory=time.monotonic)
    lost: int = 0
    log: Any = None
    stop_asked: bool = False
    maps: Any = None
    initial: Any = None

    def __post_init__(self) -> None:
        if self.cache_frozen and not self.recipe.freeze:
            raise MusiqError("--cache-frozen keeps what a frozen part makes: give --freeze too, or leave it out.")

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return bool(self.accelerator.is_main_process)

    @property
    def train_items(self) -> list[Labelled]:
        """The images that are trained on."""
        return self.dataset.training(self.recipe.train_on)

    @property
    def step_images(self) -> int:
        """Images in a step, over all processes; as many for each of them."""
        processes: int = self.accelerator.num_processes
        return min(self.recipe.batch_size, len(self.train_items)) // processes * processes

    @property
    def is_finished(self) -> bool:
        """Whether all epochs are done and the test split is scored."""
        return self.state.epoch >= self.recipe.epochs and run_folder.scored(self.folder)


@dataclass
class Learner:
    """What learns.

    Attributes:
        model: The model of this process.
        wrapped: The same as accelerate wraps it for all processes.
        optimizer: Of its weights.
        average: The running average of its weights, which is what is scored and kept; None for none.
    """

    model: Musiq
    wrapped: nn.Module
    optimizer: Any
    average: AveragedModel | None

    @property
    def kept(self) -> Musiq:
        """The model that is scored and written to checkpoints."""
        if self.average is None:
            return self.model
        averaged = self.average.module
        assert isinstance(averaged, Musiq)
        return averaged

    def step(self) -> None:
        """One step along the gradient, which is cleared."""
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update_parameters(self.model)


def save_if_due(run: Run, learner: Learner) -> None:
    """Save the state where its time has come. Raises StopAskedError, with it saved, where a signal asked for a stop.

    Not after a step of which no image could be read: where storage is gone, the state from before that is to stay.
    """
    if run.lost == run.step_images:
        return
    if run.stop_asked:
        save_state(run, learner)
        raise StopAskedError(f"Stopped in epoch {run.state.epoch + 1}, after {run.state.step} of its steps.")
    if time.monotonic() - run.saved_at >= 60 * run.save_every:
        save_state(run, learner)


def save_state(run: Run, learner: Learner) -> None:
    if run.is_main:
        parts = {"model": learner.model.state_dict(), "optimizer": learner.optimizer.state_dict()}
        parts["scaler"] = run.accelerator.scaler.state_dict() if run.accelerator.scaler is not None else {}
        if learner.average is not None:
            parts["average"] = learner.average.state_dict()
        run_folder.save_state(run.folder, run.state, parts)
    run.saved_at = time.monotonic()


@contextmanager
def stop_on_signals(run: Run) -> Iterator[None]:
    """Ctrl-C or SIGTERM ends the run after the step at hand with its state saved; a second one does not wait.

    Not with several processes, which would have to stop after the same step: there the last saved state counts.
    """

    def ask(number: int, _: object) -> None:
        if run.stop_asked:
            raise KeyboardInterrupt
        run.stop_asked = True
        click.echo("Stopping after this step; once more to stop at once.", err=True)

    signals = (signal.SIGINT, signal.SIGTERM) if run.accelerator.num_processes == 1 else ()
    before = {number: signal.signal(number, ask) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def explain_shortages(run: Run) -> Iterator[None]:
    """A lack of memory, or of a process that decodes, as a MusiqError that says what to change. No such process is left."""
    recipe = run.recipe
    try:
        yield
    except (MemoryError, RuntimeError) as problem:
        if "</torch_" in str(problem):  # the name of torch's files in shared memory
            raise MusiqError(
                f"The processes that decode images found no room in shared memory ({_last_line(problem)}). Go on without: "
                f"python train.py --resume --out {run.folder} --workers 0, or give the container more of it: docker run "
                "--shm-size."
            ) from problem
        if is_memory_short(problem):
            raise MusiqError(
                f"There is not enough memory on {run.accelerator.device} for {recipe.batch_size} images of "
                f"{recipe.width}x{recipe.height} a step: give --checkpointing, a larger --accumulate, or a smaller "
                "--batch-size."
            ) from problem
        if "DataLoader worker" in str(problem):
            raise MusiqError(
                f"A process that decodes images was ended from outside, most often for lack of memory ({problem}). "
                f"Go on with fewer: python train.py --resume --out {run.folder} --workers {run.workers // 2}"
            ) from problem
        raise
    finally:
        end_workers()


def _last_line(problem: BaseException) -> str:
    """What a worker's exception said, at the end of its traceback."""
    return str(problem).strip().splitlines()[-1]


def check_steps(run: Run, begins: bool) -> None:
    """Raise MusiqError where steps would hold no images, or a loss over pairs nothing to compare.

    A run that was begun before this was checked goes on where another loss of it learns.
    """
    items = run.train_items
    if not run.step_images:
        raise MusiqError(
            f"A step needs an image for each of the {run.accelerator.num_processes} processes; --batch-size is "
            f"{run.recipe.batch_size}, and there are {len(items)} images to train on. Give more, or start fewer processes."
        )
    terms = parse(run.recipe.loss, run.recipe.outputs)
    if begins or all(name in ON_PAIRS for _, name in terms):
        check_pairs(terms, run.step_images, [item.mos for item in items], dataset_numbers(items))


def check_room(run: Run) -> None:
    """Raise MusiqError where shared memory has no room for the batches of any split that workers read ahead."""
    processes, recipe = run.accelerator.num_processes, run.recipe
    image_bytes = recipe.height * recipe.width * 3
    steps = len(run.train_items) // run.step_images
    check_shared_memory(run.workers, steps, run.step_images // processes * image_bytes)
    for name in ("val", "test"):
        share = -(-len(run.dataset.split(name)) // processes)
        size = min(recipe.batch_size, share)
        check_shared_memory(run.workers, -(-share // recipe.batch_size), size * image_bytes)


def check_images(run: Run, skip: bool) -> None:
    """Raise MusiqError where images that a run needs from here on are gone; with `skip` only for too many of a split."""
    splits = SPLITS if run.state.epoch < run.recipe.epochs else ("test",)
    for name in splits:
        items = run.dataset.split(name)
        lost = missing(items)
        if len(lost) > (TOLERATED * len(items) if skip else 0):
            too_many = f", more than {TOLERATED:.0%}" if skip else ""
            others = "" if skip else ", or go on without them by --skip-missing"
            raise MusiqError(
                f"{len(lost)} of the {len(items)} {name} images of the run in {run.folder} are missing, {lost[0].path} "
                f"first{too_many}. Put them back where they were{others}. The run is as it was."
            )


def check_unread(run: Run, unread: int, count: int, where: str) -> None:
    """Raise MusiqError where more than TOLERATED of so many images could not be read."""
    if unread > TOLERATED * count:
        raise MusiqError(
            f"{unread} of the {count} images of {where} could not be read, more than {TOLERATED:.0%}; the last saved state "
            f"is from before. Put them in order and go on with: python train.py --resume --out {run.folder}"
        )


def open_log(run: Run) -> Any:
    """TensorBoard's writer, of the main process; None where tensorboard is not installed."""
    if not run.is_main:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(run.folder / "tensorboard"))


def start_accelerator(mixed_precision: str, cpu: bool) -> Any:
    """accelerate's Accelerator for this process. Raises MusiqError for a precision that this device does not have."""
    from accelerate import Accelerator

    try:
        return Accelerator(mixed_precision=mixed_precision, cpu=cpu)
    except (ValueError, ImportError) as problem:
        raise MusiqError(f"--mixed-precision {mixed_precision} does not work here: {problem}") from problem


def agree_on_folder(accelerator: Any, folder: Path | None, preset: str) -> Path:
    """The given folder, or a new one named after the preset and the time, the same in all processes."""
    from accelerate.utils import broadcast_object_list

    names = [str(folder or run_folder.new_folder(preset))]
    broadcast_object_list(names)
    return Path(names[0])
