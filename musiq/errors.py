"""The one family of errors that a user can meet and mend."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from numbers import Integral
from pathlib import Path
from typing import Any


class MusiqError(Exception):
    """Something the user can put right: the message says what was wrong, what was expected, what to do.

    The command lines print it as one line and exit with 1; anything else that escapes is a defect of this package.
    """


class RefusedError(MusiqError):
    """An artifact that was made and not kept: it does not score like its original, or is no faster in int8."""


class ImageError(MusiqError):
    """An image that cannot be scored; in a run over many it becomes that image's row, and the rest go on."""


def check_installed(packages: Iterable[str], what: str, extra: str) -> None:
    """Raise MusiqError for the first package that is not installed; none is imported.

    Args:
        packages: Their names, as they are imported.
        what: What needs them: "train.py trains with PyTorch and".
        extra: The extra of this package that brings them: "train".
    """
    for package in packages:
        if find_spec(package) is None:
            raise MusiqError(f"{what} needs {package}: {pip_install(extra)}.")


@cache
def pip_install(extra: str) -> str:
    """The command that adds an extra, "train", or several, "cpu,train", to this installation.

    It names the checkout or the wheel that this came from. Only an installation from an index is told its bare name:
    until musiq is on one, whoever took that name there would be installed.
    """
    checkout = Path(__file__).resolve().parents[1]
    if (checkout / "setup.cfg").is_file():
        return f"pip install --editable '{checkout}[{extra}]'"
    from importlib.metadata import PackageNotFoundError, distribution
    from urllib.parse import urlsplit
    from urllib.request import url2pathname  # all three take longer to import than the rest of musiq

    origin: dict[str, Any] = {}
    with suppress(PackageNotFoundError, ValueError):
        origin = json.loads(distribution("musiq").read_text("direct_url.json") or "{}")
    url = urlsplit(origin.get("url", ""))
    target = url2pathname(url.path) + f"[{extra}]" if url.scheme == "file" else f"musiq[{extra}]"
    if url.scheme not in ("", "file"):
        version_control = origin.get("vcs_info", {}).get("vcs", "")
        target += f" @ {version_control}{version_control and '+'}{url.geturl()}"
    return f"pip install '{target}'"


def check_positive(**values: object) -> None:
    """Raise MusiqError for the first value that is neither None nor a whole number of at least 1, by its name."""
    for name, value in values.items():
        if value is not None and not (isinstance(value, Integral) and int(value) >= 1):
            raise MusiqError(f"{name} is {value!r}; expected a whole number of at least 1.")


STARVED = ("out of memory", "bad_alloc", "failed to allocate memory", "can't allocate memory", "bfc_arena")
"""How runtimes say that memory is short; the last is ONNX Runtime's allocator, whose sentence may be cut."""


def is_memory_short(problem: BaseException) -> bool:
    """Whether an exception, or what caused it, says that there is no memory left, on whatever device."""
    return any(
        isinstance(each, MemoryError) or any(word in str(each).lower() for word in STARVED) for each in causes(problem)
    )


def causes(problem: BaseException) -> list[BaseException]:
    """The exception and those behind it, the last first."""
    chain = [problem]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    return chain


def one_line(problem: BaseException | str, most: int = 300) -> str:
    """The first line of what an exception says, cut to `most` characters; its type's name where it says nothing."""
    lines = str(problem).strip().splitlines()
    return lines[0][:most] if lines else type(problem).__name__
