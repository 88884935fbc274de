"""From a request to a checked file: build under a temporary name, score, compare, and only then rename."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from musiq import artifact, files
from musiq.artifact import Check, Record
from musiq.errors import MusiqError, RefusedError
from musiq.runtimes.base import Runtime
from musiq.runtimes.batching import Feed
from musiq.runtimes.registry import open_runtime

from .check.compare import allowed_difference, compare, lines
from .check.float64 import find_uncertain, reference_scores
from .check.speed import compare_speed
from .request import EVERY_PATCHES, LIMITS, Built, Format, Images, Limits, Request, Scores
from .staging import publish, staging

if TYPE_CHECKING:
    from musiq.model.network import Musiq

Say = Callable[[str], None]

REMEDY = "Try another precision, or loosen --max-difference and --min-srcc if that is good enough for you."
BATCH = 8  # for the check of artifacts that take any


@dataclass
class Reference:
    """The original that an artifact is compared with.

    Attributes:
        model: As it was trained, in fp32.
        name: Of its checkpoint.
        sha256: Of its checkpoint.
        images: N of uint8 (H, W, 3), that the comparison is made on: of the model's size, or of several where it takes any.
        image_source: Which they are: a folder's name, or "generated".
    """

    model: Musiq
    name: str
    sha256: str
    images: Sequence[Images]
    image_source: str

    @cached_property
    def scores(self) -> Scores:
        """The original's (N,); computed when first asked for: an artifact that cannot run here needs none."""
        scores = reference_scores(self.model, self.images)
        if self.model.spec.any_size:
            from .graph.sized import sized

            # The images of one size by the model for that size: its pyramid and its positions are made in another way.
            shape = self.images[0].shape
            same = [index for index, image in enumerate(self.images) if image.shape == shape]
            twin = sized(self.model, self.model.spec.at(*shape[:2]))
            scores[same] = reference_scores(twin, [self.images[index] for index in same])
        return scores

    def uncertain(self, found: Scores, allowed: float) -> NDArray[np.bool_]:
        """The images (N,) on which fp32 cannot tell whether `found` (N,) is right."""
        if np.all(np.abs(found - self.scores) <= allowed):
            return np.zeros(len(found), np.bool_)
        from .graph.simplify import simplify

        return find_uncertain([self.model, simplify(self.model)], self.images, found, self.scores, allowed)


def _is_exact(record: Record) -> bool:
    """Whether the same sums in another order are all that may differ."""
    return record.precision == "fp32" and not record.details.tf32


def export(format: Format, request: Request, reference: Reference, limits: Limits, path: Path, say: Say) -> Record:
    """Write an artifact and its record. Neither exists where the check failed; where it could not run on this machine
    both do, and the record says that the artifact is unverified, until `verify` has finished the check.

    Args:
        format: Of the artifact, which builds it.
        request: What is asked for.
        reference: The original that it is compared with, through the runtime that its users get.
        limits: What may differ.
        path: Of the artifact; its record lies beside it (`musiq.artifact.record_path`).
        say: Called with each line for the user.

    Returns:
        The record. Where the artifact cannot run on this machine, it says so (`Record.unverified`).

    Raises:
        RefusedError: It disagrees, or is int8 and slower than fp32.
        MusiqError: It cannot be built or written.
    """
    target = "gpu" if format.gpu_only else request.tuned_for
    request = replace(request, tuned_for=target, whole_attention=format.whole_attention)
    with staging(path) as folder:
        part = folder / path.name
        started = time.perf_counter()
        built = format.build(request, part)
        seconds = time.perf_counter() - started
        record = _record(format, request, reference, built, part, seconds)
        artifact.write_record(part, record)
        if not built.unverified:
            record = replace(record, check=run_check(part, record, reference, limits, say))
            if record.check and not record.check.passed:
                raise RefusedError(f"{_disagreement(path, reference)}, so it was not kept. {REMEDY}")
            if request.precision == "int8":
                record = compare_speed(format, request, record, part, _fitting(record, reference).images, say)
            artifact.write_record(part, record)
        publish([*(folder / file.name for file in built.files), artifact.record_path(part), part], path.parent)
    return record


def run_check(path: Path, record: Record, reference: Reference, limits: Limits, say: Say) -> Check:
    """Score the reference images with the runtime that users get, one by one in their order, which mixes sizes, and in the
    largest batch (8 where there is no limit) of each size, and compare."""
    reference = _fitting(record, reference)
    runtime = open_runtime(path)
    try:
        images, scores = reference.images, reference.scores
        found = np.empty_like(scores)
        for call in _calls(runtime, images, max(1, record.batch[0])):
            found[call] = runtime([images[index] for index in call])
        # The largest batch once: other shapes may run other kernels.
        for call in _first_calls(runtime, images, record.batch[1] or BATCH):
            together = runtime([images[index] for index in call])
            found[call] = worse_of(found[call], together, scores[call])
        provider = runtime.provider
    finally:
        runtime.close()
    allowed = allowed_difference(limits, record.spec, scores)
    uncertain = reference.uncertain(found, allowed) if _is_exact(record) else None
    check = compare(found, scores, record.spec, limits, provider, reference.image_source, uncertain)
    for line in lines(check, record.spec, limits, scores):
        say(line)
    return check


def _disagreement(path: Path, reference: Reference) -> str:
    return f"{path.name} does not score like {reference.name}"


def worse_of(alone: Scores, together: Scores, reference: Scores) -> Scores:
    """`alone` (N,), with those of `together` (n <= N,) that are further from `reference`; a NaN of either stays."""
    found, n = alone.copy(), len(together)
    off, off_together = np.abs(alone[:n] - reference[:n]), np.abs(together - reference[:n])
    worse = ~np.isnan(off) & ~(off_together <= off)
    found[:n][worse] = together[worse]
    return found


def _fitting(record: Record, reference: Reference) -> Reference:
    """The original with the images that the artifact is for: one of patches has limits of tokens. Raises MusiqError where
    there are none."""
    feed = Feed.from_record(record)
    reasons = [feed.why_not(*image.shape[:2]) for image in reference.images]
    if all(reasons):
        raise MusiqError(f"No image can be checked. {reasons[0]}")
    images = [image for image, reason in zip(reference.images, reasons, strict=True) if not reason]
    return replace(reference, images=images) if any(reasons) else reference


def _calls(runtime: Runtime, images: Sequence[Images], size: int) -> list[list[int]]:
    """Indices of the images of each call, up to `size` together."""
    if size == 1:
        return [[index] for index in range(len(images))]
    return [alike[i : i + size] for alike in _alike(runtime, images) for i in range(0, len(alike), size)]


def _first_calls(runtime: Runtime, images: Sequence[Images], size: int) -> list[list[int]]:
    """The same, of each kind of images one call, and none where a call has one image."""
    return [alike[:size] for alike in _alike(runtime, images) if len(alike) > 1]


def _alike(runtime: Runtime, images: Sequence[Images]) -> list[list[int]]:
    """Indices of the images that may share a call."""
    groups: dict[Hashable, list[int]] = {}
    for index, image in enumerate(images):
        height, width = image.shape[:2]
        tokens = runtime.spec.at(height, width).tokens
        key = {"size": (height, width), "tokens": tokens, "nothing": None}[runtime.call_shares]
        groups.setdefault(key, []).append(index)
    return list(groups.values())


def _record(format: Format, request: Request, reference: Reference, built: Built, part: Path, seconds: float) -> Record:
    from .graph.simplify import gflop

    batch = built.batch or request.batch
    return Record(
        spec=request.model.spec,
        format=format.name,
        precision=request.precision,
        sha256=files.sha256(part),
        files={file.suffix: files.sha256(file) for file in built.files},
        checkpoint={"name": reference.name, "sha256": reference.sha256},
        inputs=request.inputs,
        batch=(batch.smallest, batch.largest),
        versions=built.versions,
        layers=dict(sorted(built.layers.items(), key=lambda item: -item[1])),
        unverified=built.unverified,
        details=replace(
            built.details,
            tuned_for=request.tuned_for,
            tf32=request.engine.tf32,
            build_s=round(seconds, 1),
            gflop=round(gflop(request.model), 4),
            tokens=built.details.tokens or (request.tokens if request.inputs in EVERY_PATCHES else None),
        ),
    )


def verify(
    path: Path,
    checkpoint: Path,
    make_reference: Callable[[Path, Musiq], Reference],
    limits_for: Callable[[Limits], Limits],
    say: Say,
) -> Record:
    """Check an artifact that could not run where it was built, and write the outcome into its record.

    Args:
        path: Of the artifact.
        checkpoint: That it was made from.
        make_reference: Gives the original of a checkpoint and the model read from it.
        limits_for: Gives those of the check, from the precision's own.
        say: Called with each line for the user.

    Returns:
        The record as it was written.

    Raises:
        MusiqError: For another checkpoint, for an artifact that cannot run here, and for one that disagrees: that one
            stays where it is, its record says so, and `musiq.load` keeps calling it unverified.
    """
    from musiq.model import checkpoint as checkpoints

    if why := files.why_unreadable(path):
        raise MusiqError(f"Cannot read {path}: {why}. Give --verify an artifact.")
    record = artifact.read_record(path)
    if record is None:
        raise MusiqError(
            f"{path} has no record {artifact.record_path(path).name}: there is nothing to finish. Export it again."
        )
    if record.precision not in LIMITS:
        raise MusiqError(
            f"{path} has the precision {record.precision!r}; known are {', '.join(LIMITS)}. Export it again."
        )
    if files.sha256(checkpoint) != record.checkpoint.get("sha256"):
        raise MusiqError(
            f"{checkpoint} is not the checkpoint that {path.name} was made from ({record.checkpoint.get('name')}). "
            "Give that one with --checkpoint."
        )
    spec = record.spec
    model = checkpoints.load(checkpoint, spec.height, spec.width, any_size=spec.any_size)
    reference = make_reference(checkpoint, model)
    check = run_check(path, record, reference, limits_for(LIMITS[record.precision]), say)
    if not check.passed:
        disagreement = _disagreement(path, reference)
        artifact.write_record(path, replace(record, unverified=f"its check failed: {disagreement}"))
        raise MusiqError(f"{disagreement}: the file stays, and its record calls it unverified. {REMEDY}")
    record = replace(record, check=check, unverified="")
    artifact.write_record(path, record)
    return record
