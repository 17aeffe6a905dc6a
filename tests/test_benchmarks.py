"""Each benchmark runs at the smallest size and prints its table; what it counts, not what it times, is checked."""

import asyncio
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from benchmarks import (
    collection_speed,
    conditioning_cost,
    environment_speed,
    recording_speed,
    rollout_cost,
    training_cost,
    vae_memory,
)
from benchmarks.harness import count_flops, make_denoiser, medians, random_clip, two_stream_pass
from benchmarks.large import __main__ as large
from benchmarks.long import __main__ as long
from benchmarks.long import page as robot
from benchmarks.long.watch import Watch
from oniris_core.data.episodes.store import open_episodes
from oniris_core.world.temporal import Attention
from tests.conftest import ROOT, one_thread
from tests.players import house, served
from tests.project import project_files

SMALL = ["--latent-channels", "4", "--latent-size", "4", "--repetitions", "1"]


def table(module, params: Path, *options: str) -> list[list[str]]:
    app = typer.Typer()
    app.command()(module.main)
    result = CliRunner().invoke(app, [*SMALL, "--params", str(params / "params.yaml"), *options])
    assert result.exit_code == 0, result.output
    return [re.findall(r"[^|]+", line) for line in result.output.splitlines() if line.startswith("|")]


def test_vae_memory() -> None:
    app = typer.Typer()
    app.command()(vae_memory.main)
    result = CliRunner().invoke(app, ["--lengths", "8,16", "--size", "16", "--chunk", "2"])
    assert result.exit_code == 0, result.output
    rows = [re.findall(r"[^|]+", line) for line in result.output.splitlines() if line.startswith("|")]
    assert [int(row[0]) for row in rows[2:]] == [8, 16]
    assert all(float(row[1]) > 50 for row in rows[2:])


def test_environment_speed() -> None:
    app = typer.Typer()
    app.command()(environment_speed.main)
    options = ["--envs", "1,2", "--solver-steps", "1", "--horizon", "8", "--repetitions", "2", "--threads", "1"]
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 0, result.output
    rows = [re.findall(r"[^|]+", line) for line in result.output.splitlines() if line.startswith("|")][2:]
    assert [int(row[0]) for row in rows] == [1, 2]
    assert all(float(cell) > 0 for row in rows for cell in row[1:4])


def test_recording_speed() -> None:
    """A recording a hundred times as long may not need noticeably more memory: frames are read as they come."""
    app = typer.Typer()
    app.command()(recording_speed.main)
    result = CliRunner().invoke(app, ["--lengths", "20,2000", "--only", "npz"])
    assert result.exit_code == 0, result.output
    rows = [re.findall(r"[^|]+", line) for line in result.output.splitlines() if line.startswith("|")][2:]
    assert [int(row[1]) for row in rows] == [20, 2000]
    assert float(rows[1][4]) < 1.05


def test_collection_speed(params_only: Path) -> None:
    app = typer.Typer()
    app.command()(collection_speed.main)
    options = [
        "--episodes",
        "2",
        "--processes",
        "1,2",
        "--repetitions",
        "1",
        "--params",
        str(params_only / "params.yaml"),
    ]
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 0, result.output
    rows = [re.findall(r"[^|]+", line) for line in result.output.splitlines() if line.startswith("|")]
    assert [row[0].strip() for row in rows[2:4]] == ["1", "2"]
    assert {row[0].strip() for row in rows[6:]} == {
        "make and reset",
        "step",
        "render",
        "resize",
        "compress",
        "store",
        "rest",
    }
    assert sum(float(row[2].strip().rstrip("%")) for row in rows[6:]) == pytest.approx(100, abs=0.5)


def test_training_cost(params_only: Path) -> None:
    rows = table(training_cost, params_only, "--clips", "2,4", "--frames", "4", "--repetitions", "1")
    names = [row[0].strip() for row in rows]
    assert [name for name in names if name[0] != "-"] == ["clip", "2", "4", "step", "whole", "forecast alone"]
    assert all(float(row[-1]) <= 1.1 for row in rows[2:4])


def test_rollout_cost(params_only: Path) -> None:
    few = ["--batches", "1,2", "--solver-steps", "1", "--repetitions", "1"]
    rows = table(rollout_cost, params_only, "--early", "1", "--late", "3", *few)
    assert [row[0].strip() for row in rows if row[0].strip().isdigit()] == ["1", "2", "1", "3", "1", "2", "3"]


def test_conditioning_cost(params_only: Path, tmp_path: Path) -> None:
    plot = tmp_path / "cost.png"
    rows = table(conditioning_cost, params_only, "--contexts", "2,8", "--frames", "9", "--plot", str(plot))[2:]
    mflop = {(int(row[0]), row[1].strip()): float(row[4]) for row in rows}
    assert plot.stat().st_size > 1000
    assert mflop[8, "frame stacking"] == mflop[2, "frame stacking"]
    assert mflop[8, "two streams"] < 1.5 * mflop[2, "two streams"]
    assert mflop[8, "cross-attention"] > 2.5 * mflop[2, "cross-attention"]


def columns(output: str) -> list[dict[str, str]]:
    """The rows of the first table that was printed, by the names of their columns."""
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in output.splitlines() if line[:1] == "|"]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


@pytest.mark.skipif(sys.platform != "linux", reason="it looks at processes as on Linux")
@pytest.mark.parametrize(
    ("case", "total"),
    [
        (("dream", "--frames", "80"), 80),
        (("training", "--steps", "40", "--stops", "5"), 40),
        (("environment", "--steps", "40", "--envs", "4", "--horizon", "8"), 40),
    ],
)
def test_nothing_grows_on_the_way(case: tuple[str, ...], total: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small share of the long runs: ten points, and what they hold is told at each."""
    monkeypatch.setenv("ONIRIS_RUNS", "")  # the training sets it
    with one_thread():
        result = CliRunner().invoke(long.app, case)
    assert result.exit_code == 0, result.output
    points = columns(result.output)
    assert len(points) == 11
    first, last, growth = points[0], points[-2], points[-1]
    assert int(last[next(iter(last))].replace(",", "")) == total
    assert float(growth["memory, MiB"]) < 1.2
    assert int(last["threads"]) <= int(first["threads"]) + 1
    assert last["file handles"] == first["file handles"]
    if case[0] == "training":
        assert "resumed 5 times; files left in runs/: 0" in result.output
        assert "undisturbed: yes" in result.output


def test_a_robot_plays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PRESS_S", "WHIM_S", "SAVE_S"):
        monkeypatch.setattr(robot, name, 0.05)
    watch = Watch(0, unit="latent frame")

    async def play() -> robot.Robot:
        async with served(house(tmp_path, no_truth=None)) as server:
            one = robot.Robot(server.address, 0, 1.0, watch)
            await one.play(3.0)
            return one

    played = asyncio.run(play())
    assert played.done > 0
    assert watch.rows


@pytest.mark.skipif(sys.platform != "linux", reason="it looks at processes as on Linux")
def test_what_stands_between_a_store_and_its_first_batch_is_measured(tmp_path: Path) -> None:
    made = large.Made(tmp_path, 8, 20)
    assert made.collect(8, 1).cpu > 0
    files, mib = made.files("data/episodes.zarr")
    assert files < 100
    assert mib < 1
    for part in ("open_episodes", "frame_clips"):
        cost = made.part(part)
        assert cost.seconds > 0
        assert cost.peak > 20
    store = open_episodes(tmp_path / "data/episodes.zarr")
    lengths = np.diff(store.episode_ends, prepend=0)
    assert lengths.min() >= 10
    assert lengths.max() < 32
    assert store.terminated.all()


def test_attention_on_masked_blocks_would_be_counted(params_only: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the dense-mask reference in its place, attention computes several times what the mask needs."""
    from tests.reference import dense_attention

    denoiser = make_denoiser(params_only / "params.yaml", 4, 4, torch.device("cpu"))
    denoiser.forecaster.attention = torch.nn.Identity()  # within a frame: it has no masked blocks
    clip = random_clip(denoiser.config, 1, 4, torch.device("cpu"))
    needed = training_cost.attention_flops_needed(denoiser, 4)
    _, attention = count_flops(lambda: two_stream_pass(denoiser, clip))
    assert attention / needed == pytest.approx(1, abs=0.1)
    monkeypatch.setattr(Attention, "forward", dense_attention)
    _, attention = count_flops(lambda: two_stream_pass(denoiser, clip))
    assert attention / needed == pytest.approx(8 * 8 / (2 * (1 + 2 + 3 + 4)), abs=0.1)


def test_repetitions_alternate() -> None:
    calls = []
    assert medians({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2).keys() == {"a", "b"}
    assert calls == ["a", "b", "a", "b", "a", "b"]  # once each to warm up


def test_the_readme_names_every_benchmark() -> None:
    text = (ROOT / "benchmarks/README.md").read_text()
    scripts = {path.stem for path in project_files("benchmarks/*.py")} - {"__init__", "harness"}
    scripts |= {path.parent.name for path in project_files("benchmarks/*/__main__.py")}
    assert set(re.findall(r"python -m benchmarks\.(\w+)", text)) == scripts
