"""What the run and its measuring processes tell each other: the job, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Job:
    """One round of one model at one batch size, as a measuring process gets it.

    Attributes:
        path: The model file.
        device: As `musiq.runtimes.registry.open_runtime` takes it.
        batch: Images in a call.
        calls: Timed calls, at least.
        seconds: Timed seconds, at least.
        warmup_calls: Calls before these, at least.
        warmup_seconds: Seconds before these, at least.
        end_to_end_calls: Timed calls that begin with files.
        threads: CPU threads; None for what the process may use.
        height: Of the images, where a checkpoint is to be opened for another size than its own; so `width`.
        any_size: Whether a checkpoint is opened for images of any size.
        resize: The policy that gives images their sizes, for a model of any; "" for its own.
        score: Whether all images are scored too.
        compiled: Whether a checkpoint goes through torch.compile.
        cache: The folder for what PyTorch's compiler makes.
        precision: What PyTorch runs a checkpoint in.
    """

    path: str
    device: str
    batch: int
    calls: int
    seconds: float
    warmup_calls: int
    warmup_seconds: float
    end_to_end_calls: int
    threads: int | None = None
    height: int | None = None
    width: int | None = None
    any_size: bool = False
    resize: str = ""
    score: bool = True
    compiled: bool = False
    cache: str | None = None
    precision: str = "fp32"


@dataclass(frozen=True)
class DecodedFiles:
    """The images that a process shall use: the file `raw` of their decoded bytes, and the `files` themselves; `sizes` are
    the (height, width) of each for a model of any size."""

    raw: str
    files: list[str]
    sizes: list[tuple[int, int]] | None = None


@dataclass(frozen=True)
class Opened:
    """What an opened model says of itself. `load_s` is the seconds that opening took, imports included; `height` and
    `width` are None where images may have any, and `resize` is then the policy that gives them theirs."""

    provider: str
    load_s: float
    threads: int
    height: int | None
    width: int | None
    target: str
    resize: str = ""


@dataclass(frozen=True)
class Times:
    """What one round's calls took and gave.

    Attributes:
        cold_start_ms: The first call.
        latencies_ms: Each timed call, from uint8 images in memory to scores.
        end_to_end_ms: Each timed call from files on disk to scores.
        scores: Of all images in their order; empty where the job did not ask for them.
        seen: The scores of timed calls by the index of their image, a string as JSON has it.
        sizes: The (height, width) of the images in each timed call, for a model of any size; else empty.
    """

    cold_start_ms: float
    latencies_ms: list[float]
    end_to_end_ms: list[float]
    scores: list[float]
    seen: dict[str, float]
    sizes: list[tuple[int, int]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Figures(Times):
    """All that one round has measured.

    Attributes:
        device_memory_mib: The most that all GPUs held beyond what they held before; None without NVML.
        gpu_clock_mhz: Median SM clock while timed; None without NVML.
        peak_memory_mib: Largest resident memory of the process.
        tf32: What may be rounded to TF32 on a GPU, in words; None where nothing tells.
    """

    device_memory_mib: float | None
    gpu_clock_mhz: float | None
    peak_memory_mib: float | None
    tf32: str | None


@dataclass(frozen=True)
class Outcome:
    """What came of a job: `status` is "ok" or what went wrong, and `reason` says why.

    `opened` is there once the model was open, `figures` where the status is "ok".
    """

    status: str
    reason: str = ""
    opened: Opened | None = None
    figures: Figures | None = None


@dataclass(frozen=True)
class Round:
    """A round that was finished."""

    opened: Opened
    figures: Figures
