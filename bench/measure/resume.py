"""The journal of a run, `measured.jsonl`: each round as it was measured, written at once, so that a stopped run can go on.

The first line is what all rounds were measured under; a round measured otherwise does not belong into the same table.
Each further line is one round of one model at one batch size: every latency and score, as the measuring process gave
them. The last line may be cut short by a kill; it is left out then.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from musiq.errors import MusiqError

from ..plan.cases import BenchSettings, Case
from ..plan.images import ImageSet
from ..plan.job import Figures, Opened, Outcome

NAME = "measured.jsonl"
SCHEMA = "musiq-bench-measured/2"
BEFORE = "musiq-bench-measured/1"  # whose conditions say "pictures" for "images"

Facts = dict[str, Any]


def conditions(settings: BenchSettings, images: ImageSet, environment: Facts) -> Facts:
    """What makes two rounds comparable: how they were measured, on which images, machine and versions.

    Batch sizes, devices and models are left out, since further ones may join the table, and so is --timeout.
    """
    how = {name: value for name, value in asdict(settings).items() if name not in ("devices", "batches", "timeout_s")}
    listed = "\n".join(f"{file.absolute()} {file.stat().st_size}" for file in images.files)
    machine = {name: environment[name] for name in ("cpu", "cores", "versions")}
    gpus = [gpu["name"] for gpu in environment["gpus"]]
    return {
        **how,
        "images": hashlib.sha256(listed.encode("utf-8", "surrogateescape")).hexdigest()[:16],
        **machine,
        "gpus": gpus,
    }


class Journal:
    """The file; `add` appends a round. Rounds that failed are written too, and measured again by the next run."""

    def __init__(self, path: Path, conditions: Facts, anew: bool = True) -> None:
        """Begin the file `anew`, or go on with it. Raises MusiqError where it cannot be written.

        An earlier one is kept as NAME.before: it may hold hours of work, and --resume is easily forgotten.
        """
        self.path = path
        try:
            if anew:
                path.parent.mkdir(parents=True, exist_ok=True)
                if path.exists():
                    path.replace(path.with_name(f"{path.name}.before"))
                path.write_text(json.dumps({"schema": SCHEMA, "conditions": conditions}) + "\n", encoding="utf-8")
            elif not (content := path.read_bytes()).endswith(b"\n"):  # a kill cut its last line short
                path.write_bytes(content.rpartition(b"\n")[0] + b"\n")
        except OSError as problem:
            raise MusiqError(
                f"Cannot write {path}: {problem.strerror}. Give an --out with room and write access."
            ) from problem

    def add(self, case: Case, turn: int, outcome: Outcome) -> None:
        """Append a round. Its JSON has what the opened model said and the figures side by side."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"round": _key(case, turn), "outcome": _values(outcome)}) + "\n")


def _values(outcome: Outcome) -> Facts:
    figures = {key: value for part in (outcome.opened, outcome.figures) if part for key, value in asdict(part).items()}
    return {"status": outcome.status, "reason": outcome.reason, "figures": figures}


def _outcome(values: Facts) -> Outcome:
    """The outcome of a finished round, written by `_values`."""
    figures = values["figures"]
    parts = (Opened(**_fields(Opened, figures)), Figures(**_fields(Figures, figures)))
    return Outcome(values["status"], values["reason"], *parts)


def _fields(kind: type[Opened | Figures], values: Facts) -> Facts:
    """Those of `kind` that are there: rounds of earlier releases lack what has a default."""
    return {field.name: values[field.name] for field in dataclasses.fields(kind) if field.name in values}


def _key(case: Case, turn: int) -> Facts:
    candidate = case.candidate
    files = sorted(candidate.record.files.values()) if candidate.record else []
    return {
        "sha256": candidate.sha256,
        "files": files,
        "format": candidate.format,
        "size": ["any", candidate.resize] if candidate.any_size else [candidate.height, candidate.width],
        "device": candidate.device,
        "cast": candidate.cast,
        "batch": case.batch,
        "timed": case.timed,
        "round": turn,
    }


def resume(path: Path, cases: Sequence[Case], settings: BenchSettings, wanted: Facts) -> int:
    """Give the cases the rounds that `path` has of them; how many. None are there where it does not exist.

    Raises MusiqError for a file of other conditions, naming them.
    """
    if not path.exists():
        return 0
    lines = _read(path)
    found = lines[0].get("conditions", {}) if lines else wanted
    if different := sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name)):
        changes = ", ".join(
            f"{name} ({_short(found.get(name))} then, {_short(wanted.get(name))} now)" for name in different
        )
        raise MusiqError(
            f"--resume cannot go on with {path}: it was measured with other {changes}. "
            "Give the options of that run, or another --out."
        )
    done = {json.dumps(line["round"]): line["outcome"] for line in lines[1:] if line["outcome"]["status"] == "ok"}
    for case in cases:
        for turn in range(case.rounds(settings)):
            outcome = done.get(json.dumps(_key(case, turn)))
            if outcome is None:
                break  # later rounds without this one would come twice
            case.outcomes.append(_outcome(outcome))
    _drop_unscored(cases)
    return sum(len(case.outcomes) for case in cases)


def _drop_unscored(cases: Sequence[Case]) -> None:
    """A model whose scores came with a batch size that is not asked for now is measured at one of these again."""
    scored = {case.candidate for case in cases if case.scores is not None}
    for case in cases:
        if case.outcomes and case.candidate not in scored:
            case.outcomes.clear()
            scored.add(case.candidate)


def _read(path: Path) -> list[Facts]:
    try:
        texts = path.read_text(encoding="utf-8").split("\n")[:-1]  # after the last line break nothing is whole
        lines = [json.loads(text) for text in texts]
    except (OSError, ValueError) as problem:
        raise MusiqError(f"--resume cannot read {path} ({problem}). Remove it, or give another --out.") from problem
    if lines and lines[0].get("schema") == BEFORE:
        conditions = lines[0]["conditions"]
        lines[0]["conditions"] = {"images" if name == "pictures" else name: value for name, value in conditions.items()}
    elif lines and lines[0].get("schema") != SCHEMA:
        raise MusiqError(f"--resume cannot read {path}: it is no {SCHEMA}. Remove it, or give another --out.")
    return lines


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 60 else text[:57] + "..."
