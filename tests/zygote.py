"""Processes in milliseconds, to be killed: each is forked from one that has imported everything heavy and run nothing.

That one is the fork server of `multiprocessing`: it is started afresh, so it has none of the threads of the tests.
"""

import contextlib
import errno
import importlib
import io
import itertools
import multiprocessing
import os
import pkgutil
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import psutil
import pytest
from matplotlib.figure import Figure

import oniris_core
from oniris_core.evaluation.fidelity import vae_pictures
from oniris_core.previews import dashboard
from oniris_core.training.fit.watch import report as curves
from oniris_core.training.world import loss_profile
from tests.conftest import APPS, ROOT

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked, limited and watched as on Linux")

for module in (
    *(found.name for found in pkgutil.walk_packages(oniris_core.__path__, "oniris_core.")),
    "dvclive.live", "matplotlib.backends.backend_agg", "imageio.v3", "imageio_ffmpeg", "torchmetrics.functional.image",
    "torch._dynamo",  # the first optimizer imports it
):  # fmt: skip
    importlib.import_module(module)
PIL.Image.init()
curves.curve_figure({"warm": np.arange(3.0)}).savefig(io.BytesIO())  # the first picture of a process takes seconds


def fork(work: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    """Start `work(*arguments)`, which must be a function of a module, in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with pytest.MonkeyPatch.context() as patch:  # what the server inherits, if this call starts it
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("OMP_NUM_THREADS", "1")
        process = context.Process(target=work, args=arguments, daemon=True)
        process.start()
    return process


def run_stage_as_process(folder: Path, stage: str, options: tuple[str, ...], said: Path) -> None:
    """What `python -m stages.<stage> <options>` does in `folder`, but for its plots; stderr goes to the file `said`."""
    os.chdir(folder)
    for module, name in (
        (curves, "curve_figure"), (loss_profile, "loss_figure"), (dashboard.WorldDashboard, "draw"),
        (vae_pictures, "fidelity_figure"), (vae_pictures, "latent_histograms"), (vae_pictures, "vae_dashboard"),
    ):  # fmt: skip
        setattr(module, name, lambda *_: Figure(figsize=(0.1, 0.1)))  # most of a tiny training would go into them
    sys.stderr = said.open("w", buffering=1)
    APPS[stage](list(options))


def run_stage_as_rank(rank: int, world: int, port: int, *arguments: Any) -> None:
    """What a launcher starts: the same as one of `world` processes, which meet at a port of this machine."""
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_PORT": port}
    os.environ |= {"MASTER_ADDR": "localhost", **{name: str(value) for name, value in places.items()}}
    run_stage_as_process(*arguments)


def free_port() -> int:
    with socket.create_server(("localhost", 0)) as server:
        return server.getsockname()[1]


def cpu_seconds(process: ForkServerProcess, until: float) -> float:
    """Wait until a process has used `until` seconds of CPU, or has ended; what it had used when last seen.

    A moment of its own time: other work on the machine does not shift it.
    """
    used = 0.0
    with contextlib.suppress(psutil.Error):
        watched = psutil.Process(process.pid)
        while process.is_alive() and used < until:
            used = sum(watched.cpu_times()[:2])
            time.sleep(0.002)
    return used


WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = {"os.mkdir", "os.rename", "os.link", "os.symlink", "os.truncate"}
REMOVALS = {"os.remove", "os.rmdir"}


def before_every_change(below: Path, act: Callable[[str], None]) -> None:
    """Call `act(event)` before everything that this process does to files below a folder from now on.

    That is what Python tells its auditors (PEP 578), and the exchange of two folders, for which C is called.
    """

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "ctypes.dlsym":
            if arguments[1] == "renameat2":
                act(event)
        elif event in CHANGES or event in REMOVALS or (event == "open" and arguments[2] & WRITES):
            path = arguments[0]
            # A path that is not absolute is one of a tree that is being removed: it starts at a folder that is open.
            if not isinstance(path, int):
                path = Path(os.fsdecode(path))
                within = not path.is_absolute() or below in path.parents
                if within and not (event == "os.mkdir" and path.is_dir()):
                    act(event)

    sys.addaudithook(hook)


def kill_before(number: int, below: Path) -> None:
    """End this process, as SIGKILL does, before its change `number` (from 0) to files below a folder."""
    changes = itertools.count()

    def act(event: str) -> None:
        if next(changes) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    before_every_change(below, act)


def kill_in_file_of(size: int, below: Path) -> None:
    """Let the kernel end this process in the middle of the first write that makes a file longer than `size` bytes."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def full_from(number: int, below: Path) -> None:
    """Let every change below a folder fail from `number` on, as on a full disk. What removes something succeeds."""
    changes = itertools.count()

    def act(event: str) -> None:
        if event not in REMOVALS and next(changes) >= number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before_every_change(below, act)


def full_in_file_of(size: int, below: Path) -> None:
    """Let every write fail that makes a file longer than `size` bytes, after what fits has been written."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
