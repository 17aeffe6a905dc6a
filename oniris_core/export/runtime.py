"""onnxruntime-web, which computes in the page: from npm at a pinned version and checksum, or from a path."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from oniris_core.common.errors import OnirisError, UserError

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""Of the file that npm serves, in base64, as the registry gives it (`dist.integrity`)."""

_PLAIN = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
_GPU = ("ort.bundle.min.mjs", "ort-wasm-simd-threaded.jsep.wasm")


@dataclass(frozen=True)
class Engine:
    """JavaScript module and WebAssembly."""

    module: bytes
    wasm: bytes


@dataclass(frozen=True)
class Runtime:
    """The package, as far as it is needed.

    Attributes:
        version: of the package.
        plain: computes by WebAssembly.
        gpu: by WebGPU too; twice as large.
    """

    version: str
    plain: Engine
    gpu: Engine


def read_runtime(path: Path | None) -> Runtime:
    """The runtime.

    Args:
        path: the package as `npm pack` writes it (.tgz), or as it is unpacked (the folder that holds package.json); None:
            npm fetches it.

    Raises:
        UserError: no npm and no path, or what is there is not the package.
        OnirisError: npm could not fetch it, or what it fetched has another checksum.
    """
    if path is None:
        with tempfile.TemporaryDirectory() as folder:
            return _packed(fetch(Path(folder)))
    if not path.exists():
        raise UserError(f"--runtime {path} is missing: `npm pack {PACKAGE}@{VERSION}` makes such a file")
    return _packed(path) if path.is_file() else _runtime(lambda name: (path / name).read_bytes(), path)


def fetch(folder: Path) -> Path:
    """Let npm write the package to a folder; the file.

    Raises:
        UserError: there is no npm.
        OnirisError: it failed, or the file has another checksum.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(
            f"the page needs {PACKAGE}, and there is no npm to fetch it: install npm (nodejs.org), or name the package with "
            f"--runtime (`npm pack {PACKAGE}@{VERSION}` on another machine makes the file)"
        )
    command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--silent", "--pack-destination", str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    found = folder / f"{PACKAGE}-{VERSION}.tgz"
    if ended.returncode or not found.is_file():
        said = next((line for line in ended.stderr.splitlines() if line.strip()), "it said nothing")
        raise OnirisError(f"npm could not fetch {PACKAGE}@{VERSION} ({said[:200]}): name a copy with --runtime")
    if base64.b64encode(hashlib.sha512(found.read_bytes()).digest()).decode() != SHA512:
        raise OnirisError(f"what npm fetched is not {PACKAGE}@{VERSION}: its SHA-512 is another than the pinned one")
    return found


def _packed(path: Path) -> Runtime:
    try:
        with tarfile.open(path, "r:gz") as archive:

            def read(name: str) -> bytes:
                member = archive.extractfile(f"package/{name}")
                if member is None:
                    raise KeyError(name)
                return member.read()

            return _runtime(read, path)
    except (tarfile.TarError, EOFError) as error:
        raise UserError(f"--runtime {path} is no package of npm: {error}") from None


def _runtime(read: Callable[[str], bytes], path: Path) -> Runtime:
    try:
        about = json.loads(read("package.json"))
        if about["name"] != PACKAGE:
            raise UserError(f"--runtime {path} is the package {about['name']}, the page needs {PACKAGE}")
        plain, gpu = (Engine(_alone(read(f"dist/{module}")), read(f"dist/{wasm}")) for module, wasm in (_PLAIN, _GPU))
        return Runtime(str(about["version"]), plain, gpu)
    except (KeyError, OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"--runtime {path} is not the package {PACKAGE} {VERSION}: {error} is not in it") from None


def _alone(module: bytes) -> bytes:
    """Without the address of its source map, which a browser's tools would ask for."""
    return re.sub(rb"//# sourceMappingURL=\S+", b"", module)
