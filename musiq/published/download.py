"""Brings the file of a published model into its folder: from there if it is there, else over the network by pooch."""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from musiq.errors import MusiqError, causes, one_line
from musiq.files import atomic_write, opened_to_read, sha256, why_unreadable
from musiq.published.cache import HOME
from musiq.published.table import PublishedModel
from musiq.terminal import NO_ROOM, ProgressBar, progress_bar, tell

if TYPE_CHECKING:
    import pooch

OFFLINE, MIRROR = "MUSIQ_OFFLINE", "MUSIQ_MIRROR"
CHUNK_BYTES = 2**18


def fetch(model: PublishedModel, folder: Path) -> bool:
    """Have the file of a model, `model.file`, in a folder.

    Args:
        model: What is known of it.
        folder: Where it is or comes to; nothing else writes there meanwhile.

    Returns:
        Whether it was downloaded now.

    Raises:
        MusiqError: It cannot be downloaded, or is not the published file; a file that was downloaded is not kept then.
    """
    path = folder / model.file
    if os.path.lexists(path):
        _check(path, model)
        return False
    if os.environ.get(OFFLINE, "") not in ("", "0"):
        raise MusiqError(
            f"{model.file} is not in the cache, and {OFFLINE} forbids the network. {by_hand(model, folder)}"
        )
    address = _address(model)
    tell(f"{folder.name}: downloading {address} ({model.megabytes} MB)")
    with progress_bar(f"{model.file}, MB", model.megabytes) as bar:
        _download(address, path, model, bar)
    return True


def by_hand(model: PublishedModel, folder: Path) -> str:
    """What to do where there is no network."""
    return f"By hand: fetch {model.address} elsewhere and put it at {folder / model.file}."


def note_hash(path: Path, model: PublishedModel) -> None:
    """Keep the SHA-256 of a file beside it, by which it is checked from now on; say so where no hash was known before."""
    kept = _hash_file(path)
    if kept.exists():
        return
    digest = sha256(path)
    with atomic_write(kept) as part:
        part.write_text(f"{digest}  {path.name}\n")  # as sha256sum -c reads it
    if not model.hash:
        tell(
            f"{path.parent.name}: no hash of {path.name} is published. Its SHA-256 is {digest}; kept in {kept}, it is "
            "checked from now on"
        )


def _address(model: PublishedModel) -> str:
    """Where to download from: the publisher, or the mirror that the user has."""
    mirror = os.environ.get(MIRROR, "")
    if not mirror:
        return model.address
    if not mirror.startswith(("http://", "https://")):
        raise MusiqError(f"{MIRROR} is {mirror!r}; expected an address that begins with http:// or https://.")
    return f"{mirror.rstrip('/')}/{model.file}"


class _Megabytes:
    """A progress bar as pooch wants it, which counts bytes."""

    def __init__(self, bar: ProgressBar) -> None:
        self.total = 0  # set by pooch, and not asked here
        self._bar, self._bytes = bar, 0

    def update(self, size: int) -> None:
        before, self._bytes = self._bytes, self._bytes + size
        self._bar.advance(self._bytes // 10**6 - before // 10**6)

    def reset(self) -> None:
        self._bar = ProgressBar()  # pooch counts all once more at its end

    def close(self) -> None:
        pass


def _download(address: str, path: Path, model: PublishedModel, bar: ProgressBar) -> None:
    import pooch

    def download(url: str, part: str, _: pooch.Pooch | None) -> None:
        """What pooch calls for a temporary file, which gets its name only where nothing is raised here."""
        pooch.HTTPDownloader(progressbar=_Megabytes(bar), chunk_size=CHUNK_BYTES)(url, part, None)
        Path(part).chmod(0o644)  # temporary files are their user's alone; a cache may be shared
        _check(path, model, Path(part))

    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel("WARNING")  # what it would tell is told here
    try:
        pooch.retrieve(address, known_hash=None, fname=path.name, path=path.parent, downloader=download)
    except MusiqError as problem:
        raise MusiqError(f"{address} gave another file than the published one; nothing is kept. {problem}") from problem
    except (OSError, ValueError) as problem:  # those of requests are OSErrors; what caused them says it best
        if getattr(problem, "errno", None) in NO_ROOM:
            raise MusiqError(f"Cannot write {path}: there is no room. Make some, or set {HOME} elsewhere.") from problem
        reason = f"{type(problem).__name__}: {one_line(causes(problem)[-1], 200)}"
        raise MusiqError(f"Cannot download {address} ({reason}). {by_hand(model, path.parent)}") from problem
    finally:
        logger.setLevel(level)


def _hash_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _kept_hashes(path: Path) -> list[str]:
    kept = _hash_file(path)
    if not kept.exists():
        return []
    with opened_to_read(kept) as text:
        digits = text.read(64).decode("ascii", "replace")
    if not re.fullmatch("[0-9a-f]{64}", digits):
        raise MusiqError(f"{kept} holds no SHA-256. Remove it and {path.name}, which is downloaded again.")
    return [f"sha256:{digits}"]


def _check(path: Path, model: PublishedModel, part: Path | None = None) -> None:
    """Raise MusiqError unless a file, or the `part` that is to become it, is the one that was published.

    It is known by what the table knows and by the hash that was kept from an earlier one; where there is neither, it has at
    least to be a whole archive, which the page of a portal and half a file are not.
    """
    file = part or path
    advice = "" if part else f" Remove {path}, and it is downloaded again."
    if why := why_unreadable(file):
        raise MusiqError(f"Cannot read {file}: {why}.{advice}")
    if model.size not in (None, size := file.stat().st_size):
        raise MusiqError(f"{file} has {size:,} bytes, expected {model.size:,}.{advice}")
    expected = [*([model.hash] if model.hash else []), *_kept_hashes(path)]
    for kind, _, digits in (each.partition(":") for each in expected):
        if not (found := _digest(file, kind)).startswith(digits):
            raise MusiqError(f"The {kind} of {file} is {found}, expected {digits}.{advice}")
    if not expected and not _is_whole_archive(file):
        raise MusiqError(f"{file} is no .npz, or a part of one.{advice}")


def _digest(path: Path, kind: str) -> str:
    with opened_to_read(path) as file:
        return hashlib.file_digest(file, kind).hexdigest()


def _is_whole_archive(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, EOFError, ValueError):
        return False
