"""The check of an artefact that could not run where it was built, finished on the right machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from musiq import artifact
from musiq.errors import MusiqError

from .check import LIMITS, Limits
from .exporter import DisagreesError, Reference, Say, run_check

if TYPE_CHECKING:
    from collections.abc import Callable

    from musiq.model import Musiq


def verify(
    path: Path,
    checkpoint: Path,
    make_reference: Callable[[Path, Musiq], Reference],
    limits: Callable[[Limits], Limits],
    say: Say,
) -> artifact.Record:
    """Check the artefact `path` against the checkpoint that its record names, and write the outcome into the record.

    Raises MusiqError for another checkpoint, for an artefact that cannot run here, and for one that disagrees: that one's
    record then says so, and `musiq.load` keeps calling it unverified.
    """
    from musiq import checkpoint as checkpoints

    record = artifact.read_record(path)
    if record is None:
        raise MusiqError(
            f"{path} has no record {artifact.record_path(path).name}: there is nothing to finish. Export it again."
        )
    if artifact.sha256(checkpoint) != record.checkpoint.get("sha256"):
        raise MusiqError(
            f"{checkpoint} is not the checkpoint that {path.name} was made from ({record.checkpoint.get('name')}). "
            "Give that one with --checkpoint."
        )
    model = checkpoints.load(checkpoint, record.spec.height, record.spec.width)
    reference = make_reference(checkpoint, model)
    try:
        check = run_check(path, record, reference, limits(LIMITS[record.precision]), say)
    except DisagreesError as problem:  # a machine that cannot run it says nothing about the artefact
        artifact.write_record(path, replace(record, unverified=f"its check failed: {problem}"))
        raise
    record = replace(record, check=check, unverified="")
    artifact.write_record(path, record)
    return record
