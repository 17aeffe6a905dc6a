"""The training loop: several processes do what one does, and whatever goes wrong is said in one line."""

import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from oniris_core.common.errors import OnirisError, UserError
from oniris_core.training.fit.guards import SMOOTH, Guard
from oniris_core.training.fit.machine.distributed import Ranks
from oniris_core.training.fit.machine.read_ahead import read_ahead
from oniris_core.training.fit.params import FitParams
from oniris_core.training.fit.state import TrainState
from oniris_core.training.fit.watch import dashboard
from oniris_core.training.fit.watch.curves import Curves, dvclive_writer, tensorboard_writer
from oniris_core.training.fit.watch.stopwatch import spent, summary
from oniris_core.training.vae.trainer import VaeTrainer
from oniris_core.training.world.trainer import WorldTrainer
from tests.conftest import ROOT, Run, start, tree
from tests.project import defaults
from tests.zygote import fork, free_port, linux_only, run_stage_as_process, run_stage_as_rank

OUTPUT = {"train_vae": "models/vae", "train": "models/world"}


def state(history: dict[str, list[float]] | None = None) -> TrainState:
    model = nn.Linear(1, 1)
    found = TrainState(model, torch.optim.SGD(model.parameters(), 0.1), [])
    found.history = {name: torch.tensor(values) for name, values in (history or {}).items()}
    return found


def fit_params(**changes: object) -> FitParams:
    return FitParams.model_validate(defaults()["fit"] | changes)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= {f"{file.name}/{name}": value for name, value in load_file(file).items()}
    assert tensors
    return tensors


@linux_only
@pytest.mark.pipeline
@pytest.mark.parametrize("stage", ["train_vae", "train"])
def test_two_processes_make_the_weights_that_one_makes(stage: str, tiny_pipeline: Path, tmp_path: Path) -> None:
    """Each with half of the clips, in one part or two, over 20 steps. How they are launched, the next tests show."""
    options = ["--steps", "20", "--batch", "4", "--threads", "1", "--checkpoint-every", "100"]
    if stage == "train_vae":
        options += ["--adversarial-weight", "0.1"]
    for parts in (1, 2):
        made = {}
        for processes in (1, 2):
            out, report = tmp_path / f"{parts}{processes}", tmp_path / f"r{parts}{processes}"
            these = [*options, "--processes", processes, "--accumulate", parts, "--out", out, "--report", report]
            said, port = [tmp_path / f"said{rank}.txt" for rank in range(processes)], free_port()
            work = tiny_pipeline, stage, tuple(map(str, these))
            if processes == 1:
                ranks = [fork(run_stage_as_process, *work, *said)]
            else:
                ranks = [fork(run_stage_as_rank, rank, 2, port, *work, said[rank]) for rank in range(2)]
            for rank in ranks:
                rank.join()
            assert {rank.exitcode for rank in ranks} == {0}, [file.read_text() for file in said]
            assert said[0].read_text().count(f"{out}: ") == 1
            assert not any(file.read_text() for file in said[1:])  # only one of them speaks
            made[processes] = weights(out)
        assert made[1].keys() == made[2].keys()
        for name, value in made[1].items():
            # Where gradients start near zero an orthogonalised update amplifies rounding.
            torch.testing.assert_close(made[2][name], value, atol=3e-5, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
        curves = [np.genfromtxt(tmp_path / f"r{parts}{n}/curves.csv", delimiter=",", names=True) for n in (1, 2)]
        np.testing.assert_allclose(curves[0]["loss"], curves[1]["loss"], rtol=1e-4)
    if stage == "train":  # its loss is one of single frames: parts change nothing either
        one, two = weights(tmp_path / "11"), weights(tmp_path / "21")
        assert max(float((one[name] - two[name]).abs().max()) for name in one) < 3e-5


@pytest.mark.pipeline
def test_what_several_processes_cannot_share_is_refused_in_one_line(tiny_pipeline: Path, run: Run) -> None:
    options = ("--batch", "3", "--processes", "2", "--threads", "1", "--out", "no", "--report", "nor")
    with start(tiny_pipeline, "train", *options) as process:
        _, said = process.communicate()
    assert process.returncode == 2, said
    (error,) = [line for line in said.splitlines() if "error" in line]
    assert error.startswith("oniris: error: train.batch = 3 must be a multiple of 2: ")
    assert "Traceback" not in said
    result = run(tiny_pipeline, "train_vae", "--batch", "6", "--accumulate", "4", "--out", "no", "--report", "nor")
    assert result.exit_code == 2
    assert "train_vae.batch = 6 must be a multiple of 4" in result.output
    with pytest.raises(UserError, match=r"9 processes cannot share 8 training clips: use fit.processes = 8 or fewer"):
        Ranks(0, 9).check("train", 9, 1, clips=8)


@pytest.mark.parametrize("accumulate", [1, 2, 3])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_and_parts_share_the_clips_of_a_step(world: int, accumulate: int) -> None:
    parts = [[Ranks(rank, world).part(24, accumulate, part) for rank in range(world)] for part in range(accumulate)]
    assert np.concatenate([np.concatenate(ranks) for ranks in parts]).tolist() == list(range(24))
    assert {len(clips) for ranks in parts for clips in ranks} == {24 // accumulate // world}


@pytest.mark.pipeline
def test_a_killed_process_ends_the_training_and_the_rerun_goes_on(
    pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    options = ("--steps", "400", "--batch", "4", "--processes", "2", "--threads", "1", "--checkpoint-every", "5")
    with start(pipeline, "train", *options) as process:
        while not (found := list(pipeline.glob("runs/train/*/*/step_*.json"))):
            assert process.poll() is None
            time.sleep(0.02)
        ranks = [int(pid) for pid in (Path(f"/proc/{process.pid}/task/{process.pid}/children")).read_text().split()]
        assert len(ranks) == 2
        os.kill(ranks[1], 9)
        _, said = process.communicate()
    assert process.returncode == 1
    errors = [line for line in said.splitlines() if "oniris: error" in line]
    assert any("the same command goes on" in line for line in errors), said
    assert "Traceback" not in said
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks)
    assert not list(temporary.glob("torchelastic*"))
    assert found
    with start(pipeline, "train", *options[2:], "--steps", "400", "--processes", "1") as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "2 processes began, 1 go on" in line:
                break
        process.kill()
    assert "2 processes began, 1 go on: the same up to rounding" in lines[-1], lines
    assert "going on from step" in lines[-2]


@pytest.mark.pipeline
def test_torchrun_as_the_document_says(pipeline: Path) -> None:
    (command,) = re.findall(r"^    (torchrun .*)$", (ROOT / "docs/training.md").read_text(), re.MULTILINE)
    command = command.replace("torchrun", f"{sys.executable} -m torch.distributed.run")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [*command.split(), "--threads", "1"], cwd=pipeline, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("models/world: error@") == 1
    assert (pipeline / "reports/train/dashboard.png").is_file()


@pytest.mark.pipeline
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's compiler looks at its inputs
@pytest.mark.parametrize("stage", ["train_vae", "train"])
def test_half_precision_and_compiled_networks_train(stage: str, tiny_pipeline: Path, tmp_path: Path, run: Run) -> None:
    def metrics(*options: str) -> dict[str, torch.Tensor]:
        out = tmp_path / "-".join(options)
        result = run(tiny_pipeline, stage, *options, "--out", out, "--report", f"{out}r")
        assert result.exit_code == 0, result.output
        return weights(out)

    plain, half = weights(tiny_pipeline / OUTPUT[stage]), metrics("--precision", "bfloat16")
    compiled = torch.compile
    with patch(
        "torch.compile", lambda module, **_: compiled(module, backend="eager", dynamic=False)
    ):  # that of machines: minutes
        traced = metrics("--compile")
    for name, value in plain.items():
        torch.testing.assert_close(traced[name], value, atol=1e-5, rtol=1e-4)
    differences = [float((half[name].float() - plain[name].float()).abs().max()) for name in plain]
    assert 1e-6 < max(differences) < 0.5


@pytest.mark.pipeline
@pytest.mark.parametrize(("allowed", "bad"), [(2, (1, 4)), (1, (1, 4)), (0, (3,))])
def test_steps_that_are_not_finite_are_left_out_and_counted(
    allowed: int, bad: tuple[int, ...], pipeline: Path, run: Run
) -> None:
    def spoil(trainer: WorldTrainer, step: int, part: int) -> object:
        batch = right(trainer, step, part)
        if step in bad:
            batch.x_BTCHW.fill_(math.nan)
        return batch

    right = WorldTrainer.batch
    before = tree(pipeline / "models")
    with patch.object(WorldTrainer, "batch", spoil):
        result = run(pipeline, "train", "--skip-steps", allowed)
    if allowed >= len(bad):
        assert result.exit_code == 0, result.output
        assert '"skipped_steps": 2' in (pipeline / "reports/train/metrics.json").read_text()
        assert all(value.isfinite().all() for value in weights(pipeline / "models/world").values())
    else:
        assert result.exit_code == 1
        (error,) = [line for line in result.output.splitlines() if "oniris: error" in line]
        assert f"loss is not finite at step {bad[-1]}" in error
        assert "episodes" in error
        assert f"last good checkpoint is that of step {bad[-1] // 2 * 2}" in error
        assert tree(pipeline / "models") == before


def test_a_step_that_was_left_out_changes_nothing(tiny_pipeline: Path) -> None:
    guard = Guard(found := state(), "mse", fit_params(skip_steps=2), lambda step: f"episodes of {step}", "train")
    assert guard.lets_pass(0, 1.0, 1.0)
    assert not guard.lets_pass(1, math.nan, 1.0)
    assert not guard.lets_pass(2, 1.0, math.inf)
    with pytest.raises(
        OnirisError, match=r"gradient is not finite at step 3 \(and 2 steps before it\) \(episodes of 3\)"
    ):
        guard.lets_pass(3, 1.0, math.inf)
    assert found.skipped == 3


def exploding(steps: int, after: int, factor: float) -> int | None:
    """At which step a guard stops an error that falls to 0.1 and then is `factor` times that, if it does."""
    values = [max(1 / (1 + step), 0.1) if step < after else 0.1 * factor for step in range(steps)]
    found = state({"mse": values})
    guard = Guard(found, "mse", fit_params(), lambda _: "episodes", "train")
    for step in range(steps):
        found.step = step + 1
        try:
            guard.look_back(step)
        except OnirisError:
            return step
    return None


def test_an_exploded_error_stops_and_a_bad_moment_does_not() -> None:
    stopped = exploding(300, 200, 30.0)
    assert stopped is not None
    assert 200 < stopped < 200 + SMOOTH
    assert exploding(300, 200, 15.0) is None
    assert exploding(300, 299, 300.0) is None  # one step: 15 times, averaged
    assert exploding(300, 0, 1e6) is None  # never lower than at the start


def test_after_a_resume_the_guard_knows_what_it_knew() -> None:
    values = [0.1] * 100 + [5.0] * 50
    found = state({"mse": values})
    found.step = 105
    guard = Guard(found, "mse", fit_params(), lambda _: "episodes", "train")
    stopped = None
    for step in range(105, 150):
        found.step = step + 1
        try:
            guard.look_back(step)
        except OnirisError:
            stopped = step
            break
    values_alone = [step for step in range(20, 150) if sum(values[step - 19 : step + 1]) / 20 > 20 * 0.1]
    assert stopped == values_alone[0]


class Points:
    """Remembers what a writer of curves is told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, dict[str, float]]] = []

    def __call__(self, step: int, values: dict[str, float]) -> None:
        self.told.append((step, dict(values)))


@pytest.mark.parametrize("resumed_at", [0, 1, 399, 400, 401, 1000])
def test_curves_have_no_gap_and_no_point_twice_after_a_resume(resumed_at: int) -> None:
    g = torch.Generator().manual_seed(0)
    found = state({"loss": torch.rand(1000, generator=g).tolist(), "rare": [math.nan, 1.0] * 500})
    undisturbed, again = Points(), Points()
    curves = Curves(1000, [undisturbed])
    for step in range(1, 1001):
        found.step = step
        curves.see(found)
    curves = Curves(1000, [again])
    for step in range(resumed_at, 1001):
        found.step = step
        curves.see(found)
    assert again.told == undisturbed.told
    assert [step for step, _ in again.told] == list(range(5, 1001, 5))
    assert again.told[0][1]["loss"] == pytest.approx(float(found.history["loss"][:5].mean()))
    assert again.told[0][1]["rare"] == 1


def test_live_curves_where_git_is_too_young(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (write,) = dvclive_writer(tmp_path / "live", print)
    write(5, {"loss": 0.5})
    write(10, {"loss": 0.25})
    assert (tmp_path / "live/plots/metrics/loss.tsv").read_text().split() == ["step", "loss", "5", "0.5", "10", "0.25"]
    subprocess.run(["git", "init", "-q"], check=True)
    said = list[str]()
    assert dvclive_writer(tmp_path / "live", said.append) == []
    assert len(said) == 1
    assert "no live curves" in said[0]


def test_tensorboard_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="pip install tensorboard"):
        tensorboard_writer(tmp_path / "events")
    monkeypatch.undo()
    pytest.importorskip("tensorboard")
    tensorboard_writer(tmp_path / "events")(5, {"loss": 0.5})
    assert list((tmp_path / "events").glob("events.*"))


def test_reading_ahead_gives_what_reading_gives() -> None:
    calls = list[tuple[int, int]]()

    def batch(step: int, part: int) -> int:
        calls.append((step, part))
        return step * 10 + part

    places = [(step, part) for step in range(3, 8) for part in range(2)]
    with read_ahead(batch, 2, wanted=True) as take:
        assert [take(*place) for place in places] == [step * 10 + part for step, part in places]
    assert calls[: len(places)] == places
    with read_ahead(batch, 2, wanted=False) as take:
        assert take is batch

    def broken(step: int, part: int) -> int:
        raise UserError("chunk 3 is damaged")

    with pytest.raises(UserError, match="chunk 3"), read_ahead(broken, 1, wanted=True) as take:
        take(0, 0)


def test_time_is_shared_out_and_adds_up() -> None:
    history = {
        "seconds": torch.tensor([1.0, 1.0, 2.0, math.nan]),
        "seconds_data": torch.tensor([0.1, math.nan, math.nan, math.nan]),
        "seconds_forward": torch.tensor([0.5, math.nan, math.nan, math.nan]),
    }
    times = spent(history)
    assert times == {"seconds": 4.0, "seconds_data": 0.4, "seconds_forward": 2.0}
    line = summary(history, frames_per_step=8)
    assert line.startswith("3 steps in 4 s: 0.75 steps/s, 6 frames/s; data 10.0%, forward 50.0%")
    assert line.endswith("rest 40.0%")


@pytest.mark.pipeline
@pytest.mark.parametrize("stage", ["train_vae", "train"])
def test_a_dashboard_is_drawn_while_it_trains_and_training_does_not_notice(
    stage: str, tiny_pipeline: Path, pipeline: Path, run: Run
) -> None:
    def look(self: object) -> dict:
        found.extend(pipeline.glob(f"runs/{stage}/*/*/dashboard.png"))
        pictures.extend(iio.imread(file) for file in found[-1:])
        return {}

    found, pictures = list[Path](), list[np.ndarray]()
    trainer = {"train_vae": VaeTrainer, "train": WorldTrainer}[stage]
    after = trainer.after_step
    with (
        patch.object(trainer, "after_step", lambda self, kept: look(self) or after(self, kept)),
        patch.object(dashboard, "EVERY_SECONDS", 0.0),
    ):
        result = run(pipeline, stage)
    assert result.exit_code == 0, result.output
    assert len(found) == 5  # from the second step on that of the step before is there
    assert pictures[0].std() > 10
    assert tree(pipeline / OUTPUT[stage]) == tree(tiny_pipeline / OUTPUT[stage])
    assert (pipeline / f"reports/{stage}/dashboard.png").is_file()
    assert re.search(rf"{stage}: 6 steps in .* steps/s, .* frames/s; data .*%, forward .*%, backward", result.output)
