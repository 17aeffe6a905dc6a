"""Measures that cannot be fooled by what they are fed."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import zarr

from oniris_core.data.episodes.store import open_episodes
from oniris_core.data.latents.store import open_latents
from oniris_core.data.playing.environments import make_env
from oniris_core.data.playing.rollouts import Replay, play_episode
from oniris_core.evaluation.fidelity.metrics import crop_psnr, psnr, ssim
from oniris_core.evaluation.fidelity.positions import lunar_lander_position, probe_for
from oniris_core.evaluation.fidelity.reconstruction import Reconstruction, by_position, fidelity, reconstruction_metrics
from oniris_core.evaluation.fidelity.vae_pictures import fidelity_figure, latent_histograms, strips
from oniris_core.evaluation.measures.horizons import flat_metrics, horizon_figure, measure, table
from oniris_core.evaluation.probes.states.registry import reader_for
from oniris_core.evaluation.rollouts.evaluation_set import EvaluationSet, evaluation_set
from oniris_core.evaluation.rollouts.replays import replay_all
from oniris_core.evaluation.rollouts.rollouts import Dreamer, Rollouts, roll_out, side_by_side
from oniris_core.evaluation.rollouts.simulator import Play
from oniris_core.evaluation.scores.intervals import Bootstrap
from oniris_core.sampling.autoregressive import Sampler
from oniris_core.sampling.stepper import Stepper
from oniris_core.training.fit.watch.report import curve_figure, curve_table
from oniris_core.vae.codec import Codec
from oniris_core.vae.store import load_vae
from oniris_core.world.generation_form import GenerationForm
from oniris_core.world.store import load_world
from tests.test_data import PARAMS


@pytest.fixture(scope="module")
def flight() -> tuple[np.ndarray, np.ndarray]:
    """Frames and states of one LunarLander episode at 64 x 64."""
    params = PARAMS.model_copy(update={"size": (64, 64), "max_frames": 45})
    env = make_env(PARAMS.env_id, {}, False)
    episode = next(e for e in (play_episode(env, params, seed=0, index=i) for i in range(99)) if len(e.frames) == 45)
    return episode.frames, episode.states


def test_psnr() -> None:
    a = np.full((2, 4, 4, 3), 100, np.uint8)
    assert psnr(a, a).tolist() == pytest.approx([100, 100])
    assert psnr(a, a + 10)[0] == pytest.approx(20 * np.log10(25.5), abs=1e-4)


def test_crop_psnr_looks_at_what_moves_only() -> None:
    background = np.zeros((8, 8, 3), np.uint8)
    truth = np.zeros((1, 8, 8, 3), np.uint8)
    truth[0, 2, 3] = 200
    noisy_elsewhere = truth.copy()
    noisy_elsewhere[0, 6] = 90
    assert crop_psnr(truth, noisy_elsewhere, background)[0] == pytest.approx(100)
    assert crop_psnr(truth, np.zeros_like(truth), background)[0] == pytest.approx(20 * np.log10(255 / 200), abs=1e-4)
    assert np.isnan(crop_psnr(background[None], truth, background)[0])


def test_ssim() -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (2, 24, 24, 3), dtype=np.uint8)
    noisy = np.clip(a + rng.normal(0, 20, a.shape), 0, 255).astype(np.uint8)
    assert ssim(a, a).tolist() == pytest.approx([1, 1], abs=1e-5)
    assert (ssim(a, noisy) < 0.99).all()
    assert (ssim(a, noisy) > ssim(a, a[::-1])).all()
    flat, brighter = np.full((1, 16, 16, 3), 100, np.uint8), np.full((1, 16, 16, 3), 150, np.uint8)
    c1 = (0.01 * 255) ** 2  # no structure: only the luminance term is left (Wang et al. 2004, eq. 6)
    assert ssim(flat, brighter)[0] == pytest.approx((2 * 100 * 150 + c1) / (100**2 + 150**2 + c1), abs=3e-4)


def still(truth: np.ndarray, found: np.ndarray) -> Reconstruction:
    return Reconstruction(
        truth, found, np.ones(truth.shape[:3], np.float32), np.zeros((2, 3, 2, 2)), np.zeros_like(truth[0])
    )


def test_a_reconstruction_is_measured_frame_by_frame(flight: tuple[np.ndarray, np.ndarray]) -> None:
    truth = flight[0][:8]
    flicker = truth.copy()
    flicker[::4] = np.clip(flicker[::4].astype(int) + 20, 0, 255)  # the first frame of each group of 4
    kept = fidelity([still(truth, truth), still(truth, flicker)], lunar_lander_position)
    assert kept.psnr.shape == kept.ssim.shape == kept.crop_psnr.shape == (2, 8)
    perfect = reconstruction_metrics(fidelity([still(truth, truth)], lunar_lander_position), 4)
    assert perfect["psnr"] == perfect["crop_psnr"] == 100
    assert (perfect["position_spread_db"], perfect["found"], perfect["position_px"]) == (0, 1, 0)
    assert reconstruction_metrics(kept, 4)["position_spread_db"] > 10
    assert np.argmin(by_position(kept.psnr, 4)) == 0

    gone = truth.copy()
    gone[2:4] = 0
    lost = reconstruction_metrics(fidelity([still(truth, gone)], lunar_lander_position), 4)
    there = np.isfinite(lunar_lander_position(truth)[:, 0])
    assert there[2:4].all()
    assert lost["found"] == pytest.approx(1 - 2 / there.sum(), abs=1e-4)
    assert lost["position_px"] == 0
    assert "found" not in reconstruction_metrics(fidelity([still(truth, gone)], None), 4)
    nothing = reconstruction_metrics(fidelity([still(gone * 0, gone)], lunar_lander_position), 4)
    assert "found" not in nothing
    assert by_position(np.array([[1, np.nan, 3, np.nan]]), 2).tolist() == pytest.approx([2, np.nan], nan_ok=True)


def test_the_pictures_of_the_vae_can_be_drawn(flight: tuple[np.ndarray, np.ndarray]) -> None:
    clips = [still(flight[0][:8], flight[0][8:16])] * 2
    picture = strips(clips, columns=4, upscale=1)
    assert picture.shape == (2 * (4 * 64 + 4) - 4, 4 * 64, 3)
    assert np.array_equal(picture[:64, :64], clips[0].truth[0])
    assert np.array_equal(picture[64:128, 64:128], clips[0].found[2])
    assert (picture[192:256] == 4).all()  # four times the predicted deviation of one grey level
    assert len(latent_histograms(clips).axes) == 3
    for probe in (lunar_lander_position, None):
        figure = fidelity_figure(fidelity(clips, probe), 4)
        assert sum(axis.get_visible() for axis in figure.axes) == (6 if probe else 4)


def test_the_lander_is_found_where_it_is(flight: tuple[np.ndarray, np.ndarray]) -> None:
    frames, states = flight
    position = lunar_lander_position(frames)
    true = np.stack([(states[:, 0] + 1) * 300, (1.403 - states[:, 1]) * 200], axis=-1)
    inside = (np.abs(states[:, 0]) < 0.9) & (states[:, 1] < 1.3)
    assert inside.sum() > 10
    assert np.linalg.norm(position - true, axis=-1)[inside].mean() < 3
    assert np.isnan(lunar_lander_position(np.zeros_like(frames))).all()
    assert probe_for("LunarLander-v3") is lunar_lander_position
    assert probe_for("CartPole-v1") is not None
    assert probe_for("Pendulum-v1") is None


def candidates(flight: tuple[np.ndarray, np.ndarray], generated: np.ndarray) -> Rollouts:
    truth = flight[0][None, :40]
    made = np.concatenate([truth[:, :8], generated], axis=1)
    return Rollouts(
        truth, truth, np.stack([made, made], axis=1), np.array([0]), made, np.zeros((1, 40), int), np.array([7]), 8,
        np.ones((1, 40), bool), np.array([True]),
    )  # fmt: skip


ONE = Bootstrap(1, 20, 0)


def test_truth_is_perfect_and_a_missing_lander_is_not_found(flight: tuple[np.ndarray, np.ndarray]) -> None:
    truth = flight[0][None, 8:40]
    reader = reader_for("LunarLander-v3")
    perfect = flat_metrics(measure(candidates(flight, truth), None, reader, [], ONE))
    assert perfect["rollout/psnr@16"] == 100
    assert perfect["rollout/position_px@16"] == 0
    assert perfect["rollout/found@16"] == 1
    assert perfect["copy_last/position_px@16"] > 20
    assert perfect["copy_last/psnr@4"] < 40
    empty = truth.copy()
    empty[(empty[..., 2].astype(int) - empty[..., :2].max(-1)) > 5] = 0
    missing = flat_metrics(measure(candidates(flight, empty), None, reader, [], ONE))
    assert missing["rollout/found@16"] == 0
    assert missing["rollout/position_px@16"] >= missing["copy_last/position_px@16"]  # never better for having none
    two = truth.copy()
    two[:, :, 2:5, 2:5] = (128, 102, 230)
    assert flat_metrics(measure(candidates(flight, two), None, reader, [], ONE))["rollout/found@16"] == 0
    generic = flat_metrics(measure(candidates(flight, truth), None, None, [], ONE))
    assert not any("position" in name for name in generic)


def test_tables_and_pictures(flight: tuple[np.ndarray, np.ndarray]) -> None:
    rollouts = candidates(flight, flight[0][None, 8:40])
    curves = measure(rollouts, None, reader_for("LunarLander-v3"), [], ONE)
    rows = table(curves).splitlines()
    assert rows[0].startswith("horizon,alive,psnr_rollout,psnr_rollout_low,psnr_rollout_high,psnr_vae")
    assert len(rows) == 33
    assert len(horizon_figure(curves).axes) == 8


def test_curves_with_gaps() -> None:
    curves = {"a": np.array([1.0, np.nan, 3.0, np.nan]), "b": np.arange(4.0) + 1}
    assert curve_table(curves, points=2).splitlines() == ["step,a,b", "2,1,1.5", "4,3,3.5"]
    assert len(curve_figure(curves).axes) == 2


def test_zarr_groups_do_not_mind_the_manifest(tiny_pipeline) -> None:
    group = zarr.open_group(tiny_pipeline / "data/episodes.zarr", mode="r")
    assert set(group.group_keys()) == {"data", "meta"}


def test_two_episodes_are_also_rolled_out_under_each_others_actions(tiny_pipeline: Path) -> None:
    frames = open_episodes(tiny_pipeline / "data/episodes.zarr")
    latents = open_latents(tiny_pipeline / "data/latents.zarr")
    codec, model = Codec(*load_vae(tiny_pipeline / "models/vae")), load_world(tiny_pipeline / "models/world", 0.05)
    denoiser = model.denoiser
    with torch.no_grad():  # six steps have taught it nothing; make it listen to actions, without its noise growing
        denoiser.unet.head_gain.fill_(0.1)
        for block in [*denoiser.unet.encoder, *denoiser.unet.decoder]:
            block.embedding_gain.fill_(1)
    ticks = []
    two = evaluation_set(replace(frames, split=np.ones_like(frames.split)), 2, 2, 2, 4)

    def dreamer(batch: int) -> Dreamer:
        stepper = Stepper(replace(model, form=GenerationForm(denoiser)), codec, Sampler(2, 3, 0.1, 3, 0.05))
        return Dreamer(stepper, latents, batch, 0, ticks.append)

    def go(chosen: EvaluationSet, batch: int = 2) -> Rollouts:
        return roll_out(dreamer(batch), chosen, 2, np.arange(len(chosen.seeds)))

    both = go(two)
    again = dreamer(2).through_vae(two.truth).astype(int)  # the same road as the stored latents took
    assert np.abs(again - both.reconstructed)[two.alive].max() <= 1
    assert sum(ticks) == 2 * 3 * 2
    assert both.finite.all()
    assert not np.array_equal(both.generated, both.other_actions)
    assert np.array_equal(both.generated[:, :8], both.other_actions[:, :8])  # the context is the same
    assert np.array_equal(both.generated[:, :8], both.reconstructed[:, :8])
    assert np.array_equal(both.samples[:, 0, :8], both.samples[:, 1, :8])
    assert not np.array_equal(both.samples[:, 0], both.samples[:, 1])  # their noise differs
    alike = go(replace(two, actions=np.stack([two.actions[0]] * 2)))
    assert np.array_equal(alike.generated, alike.other_actions)
    alone = go(two, batch=1)
    assert np.abs(alone.other_actions.astype(int) - both.other_actions).max() <= 1  # batches only change rounding
    assert "other_actions/psnr@4" in flat_metrics(measure(both, None, None, [], Bootstrap(2, 20, 0)))
    one = go(evaluation_set(frames, 1, 2, 2, 4))
    assert not any("other" in name for name in flat_metrics(measure(one, None, None, [], ONE)))


def test_an_episode_that_ends_early_earns_nothing_more() -> None:
    """Replays have the rows that were recorded, one more here than whole groups; what is asked of them goes on."""
    chosen = EvaluationSet(
        episodes=np.arange(2), seeds=np.arange(2), groups=np.array([4, 3]), truth=np.zeros((2, 8, 2, 2, 3), np.uint8),
        actions=np.zeros((2, 8)), alive=np.arange(8) < np.array([[8], [6]]), context=4, c=2,
        row_actions=(np.zeros(7), np.zeros(6)),
    )  # fmt: skip

    class Still:
        env_id = "Still-v0"

        def play(self, plays: list[Play], tick: Callable[[], None]) -> list[Replay]:
            rows = [len(play.actions) for play in plays]
            return [
                Replay(np.zeros((n, 2, 2, 3), np.uint8), np.arange(n, dtype=np.float32), np.arange(n) > n - 2)
                for n in rows
            ]

    meter = SimpleNamespace(advance=lambda: None)
    found = replay_all(
        Still(), chosen, SimpleNamespace(samples=2), 0, np.arange(1), [np.zeros(())], lambda *_: nullcontext(meter),  # type: ignore[arg-type]
        SimpleNamespace(raise_if_set=lambda: None),  # type: ignore[arg-type]
    )  # fmt: skip
    assert found.rewards[:, 0].tolist() == found.rewards[:, 1].tolist() == [[3, 4, 5, 6], [3, 4, 5, 0]]
    assert found.ends[:, 0].tolist() == [[False, False, False, True], [False, False, True, True]]


def test_how_many_rollouts_lie_side_by_side_follows_from_the_device_and_the_frames() -> None:
    assert side_by_side(torch.device("cpu"), 256, 256) == 32
    on_a_gpu = [side_by_side(torch.device("cuda"), size, size) for size in (32, 64, 128, 256, 1024)]
    assert on_a_gpu == [512, 512, 128, 32, 32]
