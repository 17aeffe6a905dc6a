"""One loop, resumable to the bit: an interrupted run and an undisturbed one give the same bytes."""

import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import distributed, nn

from oniris_core.common.power_average import exponent_of_width
from oniris_core.common.seeds import torch_generator
from oniris_core.config.reader import load_section, read_yaml
from oniris_core.data.latents.clips import LatentClips
from oniris_core.data.latents.store import open_latents
from oniris_core.data.rows.clips import TRAIN
from oniris_core.training.fit.checkpoints import Checkpoints
from oniris_core.training.fit.machine.distributed import of_all_ranks
from oniris_core.training.fit.optimiser.ema import PowerEma
from oniris_core.training.fit.optimiser.muon import Muon, orthogonalised
from oniris_core.training.fit.optimiser.schedules import cooldown, cosine, inverse_sqrt, warmup
from oniris_core.training.vae.trainer import VaeTrainer
from oniris_core.training.world.loss_profile import loss_by_position, loss_by_sigma, loss_figure
from oniris_core.training.world.params import TrainParams
from oniris_core.training.world.trainer import WorldBatch, WorldObjective, WorldTrainer, denoiser_config
from oniris_core.world.loss import PAIRS, ExpectedLoss, loss_rows
from tests.conftest import Run, start, tree
from tests.test_vae import save_vgg

OUTPUT = {"train_vae": "models/vae", "train": "models/world"}


def report(folder: Path) -> dict[str, object]:
    """A report without the seconds it took."""
    files: dict[str, object] = {name: data for name, data in tree(folder).items() if name != "manifest.json"}
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["seconds"] > 0
    return {**files, "metrics.json": {k: v for k, v in metrics.items() if not k.startswith("seconds")}}


class KilledError(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.mark.pipeline
@pytest.mark.parametrize("stage", ["train_vae", "train"])
def test_killed_at_every_checkpoint_and_rerun_gives_the_same_bytes(
    stage: str, tiny_pipeline: Path, pipeline: Path, run: Run
) -> None:
    """Dies before, then after each of the three checkpoints of the tiny run."""
    save, out = Checkpoints.save, pipeline / OUTPUT[stage]
    for survivors in (0, 1, 1):  # from nothing, from step 0 to 2, from 2 to 4; the rerun below does 4 to 6
        saved = 0

        def die(self: Checkpoints, step: int, tensors: dict) -> None:
            nonlocal saved
            if saved == survivors:  # noqa: B023
                raise KilledError
            saved += 1
            save(self, step, tensors)

        with patch.object(Checkpoints, "save", die), pytest.raises(KilledError):
            run(pipeline, stage)
        assert tree(out) == tree(tiny_pipeline / OUTPUT[stage])  # the artefact there before is untouched
    result = run(pipeline, stage)
    assert result.exit_code == 0
    assert tree(out) == tree(tiny_pipeline / OUTPUT[stage])
    assert report(pipeline / "reports" / stage) == report(tiny_pipeline / "reports" / stage)
    assert not list((pipeline / "runs" / stage).rglob("step_*"))


def wait_for_checkpoint(folder: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not list((folder / "runs").rglob("step_*.json")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)


STEPS = ("--steps", "40", "--checkpoint-every", "10", "--threads", "1")


@pytest.fixture(scope="module")
def undisturbed(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a world model that was trained without a stop."""
    folder = tmp_path_factory.mktemp("undisturbed") / "pipeline"
    shutil.copytree(tiny_pipeline, folder)
    process = start(folder, "train", *STEPS, "--out", "a", "--report", "ra")
    assert process.communicate()[1]
    assert process.returncode == 0
    return tree(folder / "a")


@pytest.mark.pipeline
@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_process_goes_on_from_its_checkpoint(
    number: int, exit_code: int, pipeline: Path, undisturbed: dict[str, bytes]
) -> None:
    with start(pipeline, "train", *STEPS, "--out", "b", "--report", "rb") as process:
        wait_for_checkpoint(pipeline, process)
        process.send_signal(number)
        _, said = process.communicate()
    assert process.returncode == exit_code
    assert "Traceback" not in said
    assert not (pipeline / "b").exists()
    with start(pipeline, "train", *STEPS, "--out", "b", "--report", "rb") as process:
        _, said = process.communicate()
    assert process.returncode == 0
    assert "going on from step" in said
    assert tree(pipeline / "b") == undisturbed


@pytest.mark.pipeline
def test_a_vae_with_every_loss_trains_and_resumes_to_the_same_bytes(pipeline: Path, run: Run) -> None:
    save_vgg(pipeline / "vgg.safetensors")
    options = ("--adversarial-weight", "0.3", "--perceptual-path", "vgg.safetensors")
    result = run(pipeline, "train_vae", *options, "--out", "a", "--report", "ra")
    assert result.exit_code == 0, result.output
    curves = np.genfromtxt(pipeline / "ra/curves.csv", delimiter=",", names=True)
    assert {"nll", "worst", "kl", "psnr", "adversarial", "discriminator", "perceptual"} <= set(curves.dtype.names)
    assert np.isnan(curves["adversarial"]).tolist() == [True] * 3 + [False] * 3
    assert np.isfinite(curves["discriminator"][3:]).all()

    after_step = VaeTrainer.after_step
    with patch.object(VaeTrainer, "after_step", autospec=True) as steps:
        steps.side_effect = lambda trainer, kept: after_step(trainer, kept) if steps.call_count < 6 else die()
        with pytest.raises(KilledError):
            run(pipeline, "train_vae", *options, "--out", "b", "--report", "rb")
    result = run(pipeline, "train_vae", *options, "--out", "b", "--report", "rb")
    assert "going on from step 4" in result.output
    assert tree(pipeline / "a") == tree(pipeline / "b")
    assert report(pipeline / "ra") == report(pipeline / "rb")


def die() -> None:
    raise KilledError


@pytest.mark.pipeline
def test_another_parameter_starts_afresh(pipeline: Path, run: Run) -> None:
    with patch.object(Checkpoints, "save", autospec=True, side_effect=Checkpoints.save) as save:
        killed = patch("oniris_core.training.world.trainer.WorldTrainer.after_step", side_effect=[{}, {}, KilledError])
        with killed, pytest.raises(KilledError):
            run(pipeline, "train")
        assert save.call_count == 1
    result = run(pipeline, "train", "--lr", "0.005")
    assert result.exit_code == 0
    assert "going on" not in result.output


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path: Path) -> None:
    checkpoints, said = Checkpoints(tmp_path), list[str]()
    for step in (1, 2, 3):
        checkpoints.save(step, {"x": torch.full((9,), float(step))})
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        f"step_00000000{n}.{kind}" for n in (2, 3) for kind in ("json", "safetensors")
    ]
    path = tmp_path / "step_000000003.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    file, tensors = checkpoints.load_last(said.append) or (path, {})
    assert (file.name, tensors["x"][0]) == ("step_000000002.safetensors", 2.0)
    assert len(said) == 1
    assert "step_000000003.safetensors is damaged" in said[0]
    (tmp_path / "step_000000002.safetensors").write_bytes(b"")
    assert checkpoints.load_last(said.append) is None


@pytest.mark.pipeline
def test_a_loss_that_is_not_finite_stops_with_step_and_episodes(pipeline: Path, run: Run) -> None:
    out = tree(pipeline / "models")
    result = run(pipeline, "train_vae", "--lr", "1e30")
    assert result.exit_code == 1
    errors = [line for line in result.output.splitlines() if "oniris: error" in line]
    assert len(errors) == 1
    assert "is not finite at step" in errors[0]
    assert "episodes" in errors[0]
    assert "last good checkpoint" in errors[0]
    assert tree(pipeline / "models") == out


@pytest.mark.parametrize(("width", "exponent"), [(0.05, 16.97), (0.10, 6.94)])
def test_ema_widths_of_the_paper(width: float, exponent: float) -> None:
    assert exponent_of_width(width) == pytest.approx(exponent, abs=0.01)


def test_power_ema_has_the_profile_it_claims() -> None:
    model = nn.Linear(1, 1, bias=False)
    ema, steps = PowerEma(model, 0.1), 2000
    for step in range(steps):
        with torch.no_grad():
            model.weight.fill_(step / steps)
        ema.update(model, step)
    gamma = exponent_of_width(0.1)
    assert float(ema.model.weight) == pytest.approx((gamma + 1) / (gamma + 2), abs=1e-3)  # the mean of t under t^gamma


def test_learning_rates() -> None:
    assert [warmup(step, 4) for step in (0, 3, 9)] == [0.25, 1, 1]
    assert [inverse_sqrt(step, 100) for step in (0, 100, 400)] == [1, 1, 0.5]
    assert [cooldown(share, 0.5) for share in (0, 0.5, 0.75, 0.99)] == pytest.approx([1, 1, 0.5, 0.02])
    assert [cooldown(share, 0.0) for share in (0, 0.99)] == [1, 1]
    assert cosine(0, 0.1) == 1
    assert cosine(0.5, 0.1) == pytest.approx(0.55)
    assert cosine(1, 0.1) == pytest.approx(0.1)


def observed(steps: int, g: torch.Generator) -> ExpectedLoss:
    """After steps of 8 clips of 8 frames whose loss is 0.2 sqrt(sigma), three times that in the first frame, +- 10 %."""
    expected = ExpectedLoss()
    for _ in range(steps):
        sigma = torch.randn(8, 8, generator=g).exp()
        loss = 0.2 * sigma.sqrt() * torch.exp(0.1 * torch.randn(8, 8, generator=g))
        loss[:, 0] *= 3
        expected.observe(loss_rows(sigma, loss))
    return expected


def test_the_expected_loss_follows_the_loss() -> None:
    sigma = torch.tensor([0.1, 1.0, 5.0])
    expected = observed(401, torch.Generator().manual_seed(0))
    usual = 0.2 * sigma.sqrt() * 3 ** (1 / 8)
    torch.testing.assert_close(expected(sigma).log10(), usual.log10(), atol=0.05, rtol=0)
    copy = ExpectedLoss()
    copy.load_state_dict(expected.state_dict())
    assert torch.equal(copy(sigma), expected(sigma))


def world_trainer(pipeline: Path, folder: Path, **values: object) -> WorldTrainer:
    """A trainer by the tiny pipeline's parameters and latents, with some values in place of theirs."""
    file = pipeline / "params.yaml"
    params = load_section(TrainParams, "train", read_yaml(file), file, values)
    store = open_latents(pipeline / "data/latents.zarr")
    clips = LatentClips(store, TRAIN, params.clip_latents, "clips")
    return WorldTrainer(params, denoiser_config(params, store), clips, 0, torch.device("cpu"), folder)


def objective_and_batch(pipeline: Path, folder: Path, **values: object) -> tuple[WorldObjective, WorldBatch]:
    trainer = world_trainer(pipeline, folder, forecast_only_share=0.0, **values)
    trainer.expected.coefficients[0] = -1.0  # the usual loss is a tenth
    assert isinstance(trainer.objective, WorldObjective)
    return trainer.objective, trainer.batch(0, 0)


def test_a_step_of_the_forecast_alone_is_that_part_of_a_whole_one(tiny_pipeline: Path, tmp_path: Path) -> None:
    objective, batch = objective_and_batch(tiny_pipeline, tmp_path)
    alone, whole = objective(replace(batch, forecast_only=True)), objective(batch)
    for part in ("forecast", "outcomes"):  # rewards and ends are learned in every step
        assert torch.equal(alone.logs[part], whole.logs[part])
    both = whole.logs["forecast"] + whole.logs["outcomes"]
    torch.testing.assert_close(alone.loss, both)
    torch.testing.assert_close(whole.loss, 10 * whole.logs["weighted"] + both)
    alone.loss.backward()
    trained = {name.split(".")[0] for name, p in objective.denoiser.named_parameters() if p.grad is not None}
    assert trained == {"forecaster", "outcomes"}


def test_the_forecast_alone_has_its_share_of_the_steps(tiny_pipeline: Path, tmp_path: Path) -> None:
    for share in (0.0, 0.5, 1.0):
        trainer = world_trainer(tiny_pipeline, tmp_path, forecast_only_share=share)
        assert abs(np.mean([trainer.forecast_only(step) for step in range(400)]) - share) < (
            0.08 if share == 0.5 else 1e-9
        )


LEVELS = 10 ** torch.linspace(-2, 2, 41)


@pytest.mark.parametrize("count", [0, 1, 5, 50])
@pytest.mark.parametrize("loss", [1e-3, 1.0, 1e3])
def test_few_frames_move_the_curve_towards_them_and_nowhere_far(count: int, loss: float) -> None:
    expected, g = ExpectedLoss(), torch.Generator().manual_seed(count)
    sigma = torch.randn(count, 1, generator=g).exp()
    expected.observe(loss_rows(sigma, torch.full_like(sigma, loss)))
    curve = expected(LEVELS).log10() / math.log10(loss) if loss != 1 else expected(LEVELS).log10()
    if count == 0 or loss == 1:
        torch.testing.assert_close(expected(LEVELS), torch.ones(41))
    else:  # between the prior, a loss of 1, and what was seen; the more frames, the nearer
        assert curve.min() > -0.05
        assert curve.max() < 1.05
        near = (expected(sigma).log10() / math.log10(loss)).mean()
        assert {1: 0.05, 5: 0.3, 50: 0.8}[count] < near < {1: 0.3, 5: 0.7, 50: 1.0}[count]


def test_frames_of_one_noise_level_say_nothing_wild_of_others() -> None:
    expected = ExpectedLoss()
    sigma = torch.full((100, 50), 0.7)
    expected.observe(loss_rows(sigma, torch.full_like(sigma, 0.01)))
    assert float(expected(torch.tensor(0.7))) == pytest.approx(0.01, rel=0.05)
    assert expected(LEVELS).min() > 0.009
    assert expected(LEVELS).max() < 1.3


@pytest.mark.parametrize("outlier", [1e-12, 1e9])
def test_an_outlier_moves_the_curve_little(outlier: float) -> None:
    g = torch.Generator().manual_seed(0)
    sigma = torch.randn(50, 1, generator=g).exp()
    loss = 0.3 * torch.exp(0.3 * torch.randn(50, 1, generator=g))
    with_it = loss.clone()
    with_it[7] = outlier
    curves = []
    for losses in (loss, with_it):
        expected = ExpectedLoss()
        expected.observe(loss_rows(sigma, losses))
        curves.append(expected(sigma.sort(dim=0).values[2:-2]).log10())
    assert (curves[0] - curves[1]).abs().max() < 0.15  # decades; the outlier is 9 or 12 away


def test_the_curve_is_fitted_often_at_first_and_then_every_so_often() -> None:
    expected, fits = ExpectedLoss(), []
    with patch.object(ExpectedLoss, "_fit", lambda *_: fits.append(int(expected.steps)) or torch.zeros(9)):
        for _ in range(401):
            expected.observe(torch.zeros(1, 3))
    assert fits == [1, 2, 4, 8, 16, 32, 64, 128, 200, 256, 400]


def _rank(rank: int, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    expected = ExpectedLoss()
    for step in range(3):
        expected.observe(of_all_ranks(rows_of(rank, step)))
    torch.save(expected.state_dict(), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def rows_of(rank: int, step: int) -> torch.Tensor:
    return torch.randn(16, 3, generator=torch_generator(0, "rows", rank, step))


@pytest.mark.skipif(sys.platform != "linux", reason="the name of the loopback device is Linux's")
def test_two_ranks_see_the_frames_of_both(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_rank, (str(tmp_path),), nprocs=2)
    alone = ExpectedLoss()
    for step in range(3):
        alone.observe(torch.cat([of_all_ranks(rows_of(rank, step)) for rank in (0, 1)]))
    for rank in (0, 1):
        for name, value in torch.load(tmp_path / f"{rank}.pt").items():
            assert torch.equal(value, alone.state_dict()[name]), name


def test_tables_of_the_loss() -> None:
    expected = observed(400, torch.Generator().manual_seed(1))
    assert len(expected.recent) == PAIRS
    by_position = np.genfromtxt(io.StringIO(loss_by_position(expected)), delimiter=",", names=True)
    assert by_position["position"].tolist() == list(range(8))
    assert by_position["frames"].sum() == PAIRS
    first, others = by_position["relative"][0], by_position["relative"][1:]
    assert first / others.mean() == pytest.approx(3, rel=0.05)
    assert np.ptp(others) < 0.1
    by_sigma = np.genfromtxt(io.StringIO(loss_by_sigma(expected)), delimiter=",", names=True)
    assert by_sigma["frames"].sum() == PAIRS
    usual = by_sigma[by_sigma["frames"] > 100]
    np.testing.assert_allclose(usual["loss"], 0.2 * usual["sigma"] ** 0.5 * 3 ** (1 / 8), rtol=0.25)
    np.testing.assert_allclose(usual["usual"], usual["loss"], rtol=0.25)
    assert loss_figure(expected).axes


def test_tables_of_no_loss_at_all() -> None:
    assert loss_by_sigma(ExpectedLoss()) == "sigma,frames,loss,usual\n"
    assert loss_by_position(ExpectedLoss()) == "position,frames,loss,relative\n"
    assert loss_figure(ExpectedLoss()).axes


@pytest.mark.pipeline
def test_reports_hold_numbers_and_curves(tiny_pipeline: Path) -> None:
    metrics = json.loads((tiny_pipeline / "reports/train_vae/metrics.json").read_text())
    assert set(metrics) >= {"psnr", "ssim", "crop_psnr", "position_spread_db", "compression", "seconds"}
    pictures = ("strips", "curves", "latents", "fidelity")
    assert all((tiny_pipeline / f"reports/train_vae/{name}.png").stat().st_size > 1000 for name in pictures)
    assert metrics["compression"] == 192
    assert {"error@0.1", "error@3", "copy_last"} <= set(
        json.loads((tiny_pipeline / "reports/train/metrics.json").read_text())
    )
    curve = np.genfromtxt(tiny_pipeline / "reports/train/curves.csv", delimiter=",", names=True)
    assert len(curve) == 6
    assert all(math.isfinite(value) for value in curve["loss"])
    by_position = np.genfromtxt(tiny_pipeline / "reports/train/loss_by_position.csv", delimiter=",", names=True)
    assert by_position["position"].tolist() == [0, 1, 2]
    by_sigma = np.genfromtxt(tiny_pipeline / "reports/train/loss_by_sigma.csv", delimiter=",", names=True)
    assert by_sigma["frames"].sum() == by_position["frames"].sum() > 0
    assert (tiny_pipeline / "reports/train/loss_by_sigma.png").is_file()


def test_orthogonalised_keeps_directions_and_evens_out_lengths() -> None:
    g = torch.Generator().manual_seed(0)
    made = []
    for m, n in [(12, 40), (40, 12), (16, 16), (8, 1), (12, 30)]:  # two of one shorter side
        u, _ = torch.linalg.qr(torch.randn(m, min(m, n), generator=g))
        v, _ = torch.linalg.qr(torch.randn(n, min(m, n), generator=g))
        made.append((u, torch.diag(torch.logspace(0, -1, min(m, n))), v))
    matrices = [u @ s @ v.T for u, s, v in made]
    found = orthogonalised(matrices)
    for (u, _, v), one in zip(made, found, strict=True):
        inner = u.T @ one @ v  # diagonal, if the singular directions are kept
        assert inner.diagonal().min() > 0.65
        assert inner.diagonal().max() < 1.25
        assert (inner - inner.diagonal().diag()).abs().max() < 1e-4
    zeros = [torch.zeros_like(matrix) for matrix in matrices]
    for zero, one in zip(zeros, orthogonalised([*zeros, *matrices]), strict=False):
        assert torch.equal(one, zero)
    assert orthogonalised([]) == []


def test_muon_turns_matrices_and_leaves_the_rest_to_adam() -> None:
    g = torch.Generator().manual_seed(0)
    bias, kernel = nn.Parameter(torch.randn(5, generator=g)), nn.Parameter(torch.randn(4, 3, 3, 3, generator=g))
    adams, before = nn.Parameter(bias.detach().clone()), kernel.detach().clone()
    muon, adam = Muon([bias, kernel], lr=0.1), torch.optim.Adam([adams], lr=0.1, betas=(0.9, 0.99))
    for _ in range(3):
        gradient = torch.randn(5, generator=g)
        bias.grad, adams.grad = gradient, gradient.clone()
        kernel.grad = torch.randn(4, 3, 3, 3, generator=g)
        muon.step()
        adam.step()
    torch.testing.assert_close(bias, adams)
    muon, kernel.grad, bias.grad = Muon([kernel, bias], lr=0.1), kernel.detach() - before, None
    before = kernel.detach().clone()
    muon.step()
    update = (before - kernel.detach()).flatten(1) / 0.1
    assert float(update.square().mean().sqrt()) == pytest.approx(0.2, rel=0.2)  # the root mean square promised
    assert torch.linalg.svdvals(update).max() < 2 * torch.linalg.svdvals(update).min()
