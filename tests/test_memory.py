"""Memory foreseen: what cannot fit is refused in one line within seconds, with what would fit; what fits is not."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.training_memory import of_child
from oniris_core.common.errors import UserError
from oniris_core.common.memory import available_memory, refuse_batch, refuse_frames
from oniris_core.config.reader import build
from oniris_core.data.episodes.store import open_episodes
from oniris_core.training.fit.machine.needs import refuse_large_batch
from oniris_core.training.vae.params import TrainVaeParams
from tests import recordings as made
from tests.conftest import ROOT, Run, collect_params
from tests.project import defaults
from tests.test_cli import one_error


def test_what_is_left_is_the_least_of_machine_and_container(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    assert available_memory(tmp_path) is None
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:   4000 kB\nSwapFree: 1000 kB\n")
    assert available_memory(tmp_path) == 5000 * 1024
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("max\n")
    assert available_memory(tmp_path) == 5000 * 1024
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("2048000\n")
    assert available_memory(tmp_path) == 2048000


def test_what_would_fit_fits() -> None:
    refuse_batch(10, 10, 100, "train", 10)
    with pytest.raises(UserError, match=r"train.batch = 22 .* lower batch to at most 20, or raise accumulate 2 times"):
        refuse_batch(10, 11, 100, "train", 22)
    with pytest.raises(UserError, match="lower the clips' size"):
        refuse_batch(101, 1, 100, "train", 1)
    params = collect_params()
    refuse_frames(params.max_frames, 256, 256, 2)


@pytest.mark.parametrize(
    "case",
    [
        ("train_vae", "tiny", 1000, (3, 32, 32), {}), ("train_vae", "cpu", 16, (3, 64, 64), {"blocks": 3}),
        ("train", "cpu", 8, (16, 8, 8), {}),
    ],
    ids=["vae_of_small_clips", "vae_of_many_blocks", "world"],
)  # fmt: skip
def test_what_is_foreseen_of_a_clip_is_most_of_what_it_takes(case: Any) -> None:
    """Low, so that nothing is refused that fits; but not so low that little is refused."""
    measured, foreseen = of_child(case)
    assert 0.5 * measured < foreseen < 1.05 * measured


def test_half_as_much_is_foreseen_in_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oniris_core.training.fit.machine.needs.memory_of", lambda _: (1000, False))
    params = build(TrainVaeParams, "train_vae", {**defaults()["fit"], **defaults()["train_vae"], "batch": 10}, "test")
    with pytest.raises(UserError, match="lower batch to at most 6"):
        refuse_large_batch("train_vae", params, 150, "cpu")
    refuse_large_batch("train_vae", params.model_copy(update={"precision": "bfloat16"}), 150, "cpu")
    refuse_large_batch("train_vae", params.model_copy(update={"accumulate": 2}), 150, "cpu")


@pytest.mark.parametrize(
    ("stage", "options", "parts"),
    [
        ("collect", ("--size", "100000,100000"), ("collect.size = [100000, 100000]", "frames of up to")),
        ("collect", ("--threads", 1000000), ("common.threads = 1000000", "1024")),
        ("train_vae", ("--batch", 10000000), ("train_vae.batch = 10000000", "lower batch to at most")),
        ("train", ("--batch", 10000000), ("train.batch = 10000000", "lower batch to at most")),
        ("train", ("--forecast-ages", "[1,100000]"), ("100000 latent frames back", "choose ages up to")),
    ],
)  # fmt: skip
def test_what_cannot_fit_is_one_line(
    stage: str, options: tuple[object, ...], parts: tuple[str, ...], tiny_pipeline: Path, tmp_path: Path, run: Run
) -> None:
    for name in ("params.yaml", "data"):
        (tmp_path / name).symlink_to(tiny_pipeline / name)
    out = tmp_path / "made"
    started = time.process_time()
    one_error(run(tmp_path, stage, *options, "--out", out), ".*".join(map(re.escape, parts)))
    assert time.process_time() - started < 10
    assert not out.exists()


PEAK = """
import re, runpy, sys
from pathlib import Path
from oniris_core.data.rows import zarrs
from oniris_core.collection.recordings import offsets
offsets.MAX_ROWS, zarrs.ROWS_PER_SHARD = 200, 64  # what is held at once anyhow, whatever the length, is to be less than that
sys.argv = ["collect", *sys.argv[1:]]
try:
    runpy.run_module("stages.collect", run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


def test_a_longer_video_needs_no_more_memory(params_only: Path) -> None:
    """Nearly three minutes against a quarter of a minute, end to end: held at once the frames would take 79 MiB more."""
    peaks = []
    for length in (300, 3300):
        root = params_only / f"in{length}"
        frames = np.broadcast_to(np.uint8(90), (length, 96, 96, 3))
        made.write_video(root / "a.mp4", frames)
        np.save(root / "a.npy", np.arange(length) % 4)
        options = f"--source videos --recordings {root} --held-out-share 0 --size 96,96 --frame-skip 1"
        out = f"--out {params_only / f'{length}.zarr'}"
        command = [sys.executable, "-c", PEAK, *options.split(), *out.split()]
        around = {**os.environ, "PYTHONPATH": str(ROOT)}
        printed = subprocess.check_output(command, cwd=params_only, env=around, stderr=subprocess.DEVNULL, text=True)
        peaks.append(int(printed.split()[-1]) / 1024)
        assert open_episodes(params_only / f"{length}.zarr").frames.shape[0] >= length
    assert peaks[1] < peaks[0] + 25, peaks
