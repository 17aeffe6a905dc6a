"""Memory foreseen: what cannot fit is refused in one line within seconds, with what would fit; what fits is not."""

import re
import time
from pathlib import Path

import pytest

from oniris_core.common.errors import UserError
from oniris_core.common.memory import available_memory, refuse_batch, refuse_frames
from tests.conftest import Run, collect_params
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
    ("stage", "options", "parts"),
    [
        ("collect", ("--height", 100000, "--width", 100000), ("collect.height x width = 100000 x 100000", "frames of up to")),
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
