"""The model files of a run: found, with their records, and each artifact with its PyTorch reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from musiq import artifact
from musiq.artifact import Record, Refusal
from musiq.bundled import default_model
from musiq.errors import MusiqError
from musiq.file_formats import CHECKPOINT_ENDINGS, ENDINGS, ending_of
from musiq.files import sha256

COMPILED = "torch.compile"
"""The format of a checkpoint that PyTorch compiles before it runs it."""


@dataclass(frozen=True)
class Candidate:
    """One file to measure: a checkpoint, run by PyTorch, or an artifact, run by its own runtime.

    Attributes:
        path: The file.
        format: A name of `musiq.file_formats.FILE_FORMATS`, or COMPILED.
        sha256: Of the file.
        record: What its exporter wrote beside it.
        height: Set, as `width` is, for a checkpoint that is the reference of artifacts, whose image size may be another
            than its own.
        any_size: Whether it is such a reference of an artifact for any size, with the artifact's `resize`.
        resize: The resize policy that gives images their sizes; "" for the file's own.
        refusal: Why the file is not there, where musiq-export refused it: it becomes a row with its reason.
        cast: The precision that PyTorch runs a checkpoint in.
        device: Where it shall run, as `musiq.runtimes.open_runtime` takes it.
    """

    path: Path
    format: str
    sha256: str
    record: Record | None = field(default=None, compare=False)
    height: int | None = None
    width: int | None = None
    any_size: bool = False
    resize: str = ""
    refusal: Refusal | None = None
    cast: str = "fp32"
    device: str = "auto"

    @property
    def compiled(self) -> bool:
        """Whether PyTorch's compiler is at work when it opens."""
        return self.format == COMPILED or self.device.startswith("cuda-compile")

    @property
    def precision(self) -> str:
        if self.format in ("pytorch", COMPILED):
            return self.cast
        if self.refusal:
            return self.refusal.precision
        return self.record.precision if self.record else "unknown"

    @property
    def inside(self) -> str | None:
        """What its exporter counted in the finished file, such as "float16 97%, float32 3%"; None without a count."""
        if self.format in ("pytorch", COMPILED):
            return "float32 100%" if self.cast == "fp32" else None
        if self.record is None:
            return None
        if int8 := self.record.details.int8:
            return f"{int8.products} products in int8"
        weights = self.record.details.weight_types
        if not (total := sum(weights.values())):
            return None
        ordered = sorted(weights.items(), key=lambda item: -item[1])
        return ", ".join(f"{kind} {100 * count / total:.3g}%" for kind, count in ordered)

    @property
    def file_mb(self) -> float | None:
        """Megabytes (1e6 bytes) of the file and of those that belong to it, such as OpenVINO's .bin."""
        endings = {*(self.record.files if self.record else ()), *((".bin",) if self.format == "openvino" else ())}
        others = [self.path.with_suffix(ending) for ending in endings]
        try:
            return sum(file.stat().st_size for file in [self.path, *others] if file.exists()) / 1e6 or None
        except OSError:
            return None


def find_models(paths: Sequence[Path]) -> list[Candidate]:
    """Each file as given, and of each folder every file that a runtime opens. Raises MusiqError where there is none."""
    found: list[Path] = []
    for path in paths:
        if not path.suffix and not path.exists():  # a folder, by its name
            raise MusiqError(f"There is no folder {path}. Make a model with musiq-export, or give one with --models.")
        found += _inside(path) if path.is_dir() else [path]
    if not found:
        raise MusiqError(
            f"There is no model in {', '.join(map(str, paths))}: expected files named *{', *'.join(ENDINGS)}. "
            "Make one with musiq-export, or give one with --models."
        )
    return [describe(file) for file in dict.fromkeys(found)]


def _inside(folder: Path) -> list[Path]:
    """What a runtime opens, and what was refused when it was exported and is not there."""
    files = {file.with_name(file.name.removesuffix(artifact.REFUSED)) for file in folder.rglob("*")}
    return [file for file in sorted(files) if ending_of(file) and not file.name.startswith(".")]


def default_models(exports: Path = Path("exports")) -> tuple[Path, ...]:
    """What is measured where no model is named: all of `exports`, else the model that comes with musiq."""
    return (exports,) if _inside(exports) else (default_model(exports),)


def short_names(candidates: Sequence[Candidate]) -> dict[Candidate, str]:
    """What to call each in a table: the file's name without its ending, the folder before it where that is not enough."""
    files = {candidate: candidate.path.absolute() for candidate in candidates}
    names = {}
    for candidate, file in files.items():
        alike = [o for o in files.values() if o != file and (o.stem, o.suffix) == (file.stem, file.suffix)]
        name = f"{file.parent.name}/{file.stem}" if alike else file.stem
        names[candidate] = name.encode("utf-8", "backslashreplace").decode()  # plots take no stray bytes
    return names


def describe(path: Path) -> Candidate:
    """The Candidate of a file. Raises MusiqError for one that is missing or of no known kind."""
    ending = ending_of(path)
    if ending is None:
        raise MusiqError(f"{path} is of no known kind; expected a file named *{', *'.join(ENDINGS)}.")
    if refusal := artifact.read_refusal(path):
        return Candidate(path, ENDINGS[ending].name, sha256(artifact.refusal_path(path)), refusal=refusal)
    try:
        digest = sha256(path)
    except MusiqError as problem:
        raise MusiqError(f"{problem} Check --models and --checkpoint.") from problem
    try:
        record = artifact.read_record(path)
    except MusiqError:  # its runtime refuses it for the same reason, and that becomes its row
        record = None
    return Candidate(path, ENDINGS[ending].name, digest, record)


def reference_of(exported: Candidate, checkpoint: Candidate | None) -> tuple[Candidate | None, str]:
    """The checkpoint whose scores an artifact's are compared with.

    Args:
        exported: The artifact.
        checkpoint: The one asked for, which is taken if the artifact was exported from it or has no record of that; else
            the one that its record names is, where a file of that name and SHA-256 lies beside the artifact, in the
            working folder or under runs/.

    Returns:
        The checkpoint at the artifact's image size, and a note: why there is none, or what is doubtful about it.
    """
    if exported.refusal:
        return None, ""  # there are no scores to compare
    recorded = exported.record.checkpoint if exported.record else {}
    name, digest = recorded.get("name", ""), recorded.get("sha256")
    found = checkpoint if checkpoint and digest in (None, checkpoint.sha256) else None
    if found is None and name and digest:
        found = _search(exported.path, Path(name), digest)
    if found is None:
        other = f"it was not exported from {checkpoint.path.name}; " if checkpoint else ""
        lost = f"its checkpoint {name} was not found as it was" if name else "no record names its checkpoint"
        return None, f"{other}{lost}; give it with --checkpoint"
    note = "" if digest else f"no record says that it was exported from {found.path.name}"
    if exported.record is None:
        return found, note
    spec = exported.record.spec
    if spec.any_size:
        return replace(found, any_size=True, resize=spec.resize or "native"), note
    return replace(found, height=spec.height, width=spec.width), note


def _search(exported: Path, name: Path, digest: str) -> Candidate | None:
    runs = sorted(Path("runs").rglob(name.name)) if Path("runs").is_dir() else []
    for path in (name, exported.parent / name.name, *runs):
        if path.is_file() and path.name.endswith(CHECKPOINT_ENDINGS) and sha256(path) == digest:
            return describe(path)
    return None
