"""The sampler: second order, right marginals, and rollouts that depend on their own seed only."""

import itertools
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch

from oniris_core import sampling, vae, world
from oniris_core.data.episodes.groups import group_rows
from oniris_core.data.episodes.store import open_episodes
from oniris_core.sampling.autoregressive import Sampler, generate, next_frame, prefill
from oniris_core.sampling.schedule import sigma_schedule
from oniris_core.sampling.solver import dpm_solver
from oniris_core.sampling.stepper import Stepper, is_finite
from oniris_core.vae.codec import Codec
from oniris_core.world.generation_form import GenerationForm
from oniris_core.world.rollout_state import RolloutState, tensors
from tests.conftest import ROOT, one_thread
from tests.test_world import data, make

SAMPLER = Sampler(steps=3, sigma_max=3, sigma_min=0.1, rho=3, context_sigma=0.05)


def test_schedule_runs_from_max_to_min_and_then_zero() -> None:
    sigmas = sigma_schedule(5, 80, 0.02, 7)
    assert sigmas[[0, -2, -1]].tolist() == pytest.approx([80, 0.02, 0])
    assert (sigmas.diff() < 0).all()
    assert sigma_schedule(1, 5, 0.1, 3).tolist() == pytest.approx([5, 0])


def gaussian(std: float, mean: float = 0.0):
    """The exact denoiser of N(mean, std^2)."""
    return lambda x, sigma: (x * std**2 + mean * sigma**2) / (std**2 + sigma**2)


def euler(denoise, x: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
    """The first-order solver, to show that the test can tell."""
    for sigma, below in itertools.pairwise(sigmas.tolist()):
        x = x + (below - sigma) * (x - denoise(x, sigma)) / sigma
    return x


@pytest.mark.parametrize(("solver", "order"), [(dpm_solver, 2), (euler, 1)])
@pytest.mark.parametrize(("top", "low", "rho"), [(4.0, 1e-3, 3), (5.0, 0.1, 3), (80.0, 0.01, 7)])
def test_the_solver_is_of_second_order_on_a_gaussian(solver, order: int, top: float, low: float, rho: float) -> None:
    x, std, mean = torch.tensor([3.0], dtype=torch.float64), 0.5, 0.7
    exact = mean + (x - mean) * ((std**2 + low**2) / (std**2 + top**2)) ** 0.5  # the flow keeps (x - mean) / spread
    counts, errors = (32, 64, 128, 256), []
    for steps in counts:
        sigmas = sigma_schedule(steps, top, low, rho)[:-1]
        errors.append(float((solver(gaussian(std, mean), x, sigmas) - exact).abs()))
    # Measured: 2.03 to 2.05, and 1.00 to 1.01 for Euler.
    assert -np.polyfit(np.log(counts), np.log(errors), 1)[0] == pytest.approx(order, abs=0.15), errors


def test_the_flow_keeps_the_marginal() -> None:
    g, std, mean, top = torch.Generator().manual_seed(0), 0.5, 0.7, 4.0
    x = mean + (std**2 + top**2) ** 0.5 * torch.randn(40_000, generator=g, dtype=torch.float64)
    made = dpm_solver(gaussian(std, mean), x, sigma_schedule(64, top, 0.01, 3))
    assert float(made.mean()) == pytest.approx(mean, abs=0.01)  # four standard errors
    assert float(made.std()) == pytest.approx(std, abs=0.01)


def test_the_observer_sees_every_level() -> None:
    seen = []
    sigmas = sigma_schedule(4, 2, 0.1, 2)
    dpm_solver(gaussian(1), torch.ones(1), sigmas, lambda step, sigma, _x, _d: seen.append((step, sigma)))
    assert seen == [(i, float(s)) for i, s in enumerate(sigmas[:-1])]


def start(batch: slice = slice(None), context: int = 2, B: int = 3, T: int = 6, **architecture: object):
    """A form, the state after some frames, and the actions that follow, in float64: no rounding grows in a rollout."""
    form = GenerationForm(make(**architecture).double())
    clean, _, _ = data(B=B, T=T)
    x, actions = clean.x[batch].double(), clean.actions[batch].double()
    state = prefill(form, x[:, :context], actions[:, :context], clean.has_action[batch, :context], SAMPLER)
    return form, state, actions[:, context:]


def dream(
    form: GenerationForm, state: RolloutState, actions: torch.Tensor, seeds: list[int], sampler: Sampler = SAMPLER
):
    return torch.stack(list(generate(form, state, actions.unbind(1), sampler, seeds)), dim=1)


def test_rollouts_do_not_depend_on_their_neighbours() -> None:
    """To the bit on who they are; on how many there are, which decides how a processor adds up, to rounding."""
    seeds = [100, 101, 102]
    with one_thread():
        together = dream(*start(), seeds)
        alone = [dream(*start(slice(i, i + 1)), [seeds[i]])[0] for i in range(3)]
        again = dream(*start(), seeds)
        form, state, actions = start()
        others = [2, 1, 2]
        among_others = dream(form, state.select(others), actions[others], [7, 101, 8])
    assert together.shape == (3, 4, 3, 4, 4)
    torch.testing.assert_close(torch.stack(alone), together, atol=1e-9, rtol=1e-9)
    assert torch.equal(together, again)
    assert torch.equal(among_others[1], together[1])
    assert not torch.allclose(together[0], together[1])


def test_one_past_is_continued_many_times() -> None:
    form, state, actions = start(slice(0, 1), context=3, window=2)
    first = dream(form, state, actions, [7])
    assert not torch.allclose(first, dream(form, state, actions, [8]))
    assert torch.equal(first, dream(form, state, actions, [7]))  # rollouts did not touch it
    both = dream(form, state.repeat(2), actions.expand(2, -1, -1), [8, 7])
    torch.testing.assert_close(both[1:], first, atol=1e-9, rtol=1e-9)


def test_a_rollout_is_endless_and_what_it_remembers_is_not() -> None:
    form, state, actions = start(slice(0, 1), window=40)
    sizes = []
    for _ in range(100):
        state, x = next_frame(form, state, actions[:, 0], SAMPLER, [0])
        assert torch.isfinite(x).all()
        sizes.append(sum(part.numel() for part in tensors(state)))
    assert sizes[0] < sizes[20] < sizes[38]  # room is made as it is needed, up to the window
    assert len(set(sizes[38:])) == 1
    assert int(state.position) == 102


def test_compiled_each_step_is_one_graph_for_all_moments_and_noise_levels() -> None:
    """Traced only: the compiler of CPUs takes minutes. A second graph, or a break in one, is an error."""
    form, state, actions = start(slice(0, 2), window=3)
    clean, _, _ = data(B=3, T=6)
    expected = dream(form, state, actions, [7, 8])
    compiled = torch.compile
    with (
        patch("torch.compile", lambda step, **options: compiled(step, **options, backend="eager")),
        torch._dynamo.config.patch(error_on_recompile=True),
    ):
        form.compile_parts()
        state = prefill(
            form, clean.x[:2, :2].double(), clean.actions[:2, :2].double(), clean.has_action[:2, :2], SAMPLER
        )
        found = dream(form, state, actions, [7, 8])
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)


def test_what_a_rollout_refuses() -> None:
    form, state, actions = start(B=2, T=3)
    clean, _, _ = data(B=2, T=2)
    x, told, there = clean.x.double(), clean.actions.double(), clean.has_action
    with pytest.raises(ValueError, match="at least one frame of context"):
        next_frame(form, form.begin(x[:, 0], x[:, 0, 0, 0, 0]), actions[:, 0], SAMPLER, [0, 1])
    with pytest.raises(ValueError, match="3 seeds for 2 rollouts"):
        next_frame(form, state, actions[:, 0], SAMPLER, [0, 1, 2])
    with pytest.raises(ValueError, match=r"actions of shape \[2, 4\] do not fit \[2, 5\]"):
        next_frame(form, state, actions[:, 0, :4], SAMPLER, [0, 1])
    with pytest.raises(ValueError, match="a state of another model"):
        next_frame(GenerationForm(make(window=3)), state, actions[:, 0], SAMPLER, [0, 1])
    with pytest.raises(ValueError, match=r"latents and actions must be finite: latents of shape \[2, 2, 3, 4, 4\]"):
        prefill(form, x * float("nan"), told, there, SAMPLER)
    with pytest.raises(ValueError, match=r"latents of shape \[2, 0, 3, 4, 4\] do not fit .*at least one frame"):
        prefill(form, x[:, :0], told[:, :0], there[:, :0], SAMPLER)
    with pytest.raises(ValueError, match=r"actions of shape \[2, 2, 4\] and \[2, 2\]"):
        prefill(form, x, told[..., :4], there, SAMPLER)
    for wrong in ({"sigma_min": 0.0}, {"context_sigma": 0.0}, {"sigma_max": 0.01}, {"steps": 0}):
        with pytest.raises(ValueError, match="a sampler needs"):
            replace(SAMPLER, **wrong)


@pytest.fixture(scope="module")
def played(tiny_pipeline: Path):
    """The tiny model, its VAE, and 17 frames of an episode with their actions, for a batch of one."""
    store = open_episodes(tiny_pipeline / "data/episodes.zarr")
    start, end = next(bounds for e in range(8) if (bounds := store.bounds(e))[1] - bounds[0] >= 17)
    model, codec = world.load(tiny_pipeline / "models/world"), vae.load(tiny_pipeline / "models/vae")
    with torch.no_grad():  # six steps have taught it nothing; make it listen to actions, without its noise growing
        model.denoiser.unet.head_gain.fill_(0.1)
        for block in [*model.denoiser.unet.encoder, *model.denoiser.unet.decoder]:
            block.embedding_gain.fill_(1)
    model = replace(model, form=GenerationForm(model.denoiser))
    return model, codec, store.frames[start:end][None, :17], store.actions[start:end][:17, None]


def test_frames_to_frames_is_the_rollout_of_latents(played, tiny_pipeline: Path) -> None:
    model, codec, frames, actions = played
    how = sampling.sampler(tiny_pipeline / "params.yaml")
    made = list(sampling.rollout(Stepper(model, codec, how), frames[:, :9], iter(actions), seed=3))
    assert [part.shape for part in made] == [(1, 4, 32, 32, 3)] * 2
    assert made[0].dtype == np.uint8

    rows = group_rows(0, 5, 4)
    mean, std = (torch.from_numpy(part)[:, None, None] for part in (model.mean, model.std))
    z = (codec.vae.encode(torch.from_numpy(frames[:, rows]))[0] - mean) / std
    features = torch.from_numpy(model.action_spec.encode(actions[rows, 0])).reshape(1, 5, -1)
    there = torch.arange(5)[None] > 0
    state = prefill(model.form, z[:, :3], features[:, :3], there[:, :3], how)
    new = list(generate(model.form, state, features[:, 3:].unbind(1), how, [3 * 2**32]))
    whole = codec.vae.decode(torch.cat([z[:, :3], torch.stack(new, dim=1)], dim=1) * std + mean)[0]
    difference = np.concatenate(made, axis=1).astype(int) - whole[:, 12:].numpy()
    assert np.abs(difference).max() <= 1  # grey levels


def test_a_stepper_goes_on_from_any_moment_as_the_rollout_did(played) -> None:
    """Kept, picked out of a batch, gone back to: the same bytes; with other noise or actions others."""
    model, codec, frames, actions = played
    stepper = Stepper(model, codec, SAMPLER)
    video = list(sampling.rollout(stepper, frames[:, :9], iter(actions), seed=3))
    moment, shown = stepper.begin(frames[:, :9], actions[:9].swapaxes(0, 1))
    assert shown.shape == (1, 12, 32, 32, 3)
    moments, seeds = [moment], [3 * 2**32]
    for t in (9, 13):
        moment, made = stepper.step(moment, actions[None, t : t + 4, 0], seeds)
        assert np.array_equal(made, video[(t - 9) // 4])
        assert is_finite(moment).all()
        moments.append(moment)
    _, again = stepper.step(moments[1], actions[None, 13:17, 0], seeds)
    assert np.array_equal(again, video[1])
    _, other = stepper.step(moments[1], actions[None, 13:17, 0], [4])
    assert not np.array_equal(other, video[1])
    four, made = stepper.step(moments[0].repeat(4), np.repeat(actions[None, 9:13, 0], 4, axis=0), [*seeds, 1, 2, 3])
    assert len(four) == 4
    assert np.abs(made[0].astype(int) - video[0][0]).max() <= 1  # grey levels: another size of batch rounds otherwise
    with pytest.raises(ValueError, match=r"actions of shape \[1, 3\] do not fit \[1, 4, ...\]"):
        stepper.step(moments[0], actions[None, 9:12, 0], seeds)


def test_a_video_rollout_asks_for_actions_when_it_needs_them(played) -> None:
    model, codec, frames, actions = played
    asked = []

    def play() -> Iterator[np.ndarray]:
        for action in itertools.chain(actions[:9], itertools.cycle(actions[9:])):
            asked.append(action)
            yield action

    video = sampling.rollout(Stepper(model, codec, replace(SAMPLER, steps=1)), frames[:, :9], play())
    for count in range(4):
        assert len(asked) == 9 + 4 * count
        next(video)


def test_what_a_video_rollout_refuses(played) -> None:
    model, codec, frames, actions = played

    def go(frames: np.ndarray, actions: object, codec: Codec = codec, count: int = 1) -> None:
        list(itertools.islice(sampling.rollout(Stepper(model, codec, SAMPLER), frames, actions), count))

    with pytest.raises(ValueError, match="the model belongs to VAE"):
        go(frames[:, :9], actions, replace(codec, identity="another"))
    with pytest.raises(
        ValueError, match=r"context of shape \[1, 8, 32, 32, 3\] does not fit \[B, 1 \+ k \* 4, H, W, 3\]"
    ):
        go(frames[:, :8], actions)
    with pytest.raises(ValueError, match=r"make latents \[1, 3, 4, 2, 4\], the model knows \[B, T, 4, 4, 4\]"):
        go(frames[:, :9, :16], actions)
    with pytest.raises(ValueError, match=r"context of shape \[1, 9, 32, 32, 3\] needs 9 actions, there are 5"):
        go(frames[:, :9], actions[:5])
    with pytest.raises(ValueError, match=r"actions of shape \[1, 9, 2\] do not fit \['B', 'T'\]"):
        go(frames[:, :9], np.zeros((17, 1, 2), np.int64))
    with pytest.raises(ValueError, match="must be whole numbers"):
        go(frames[:, :9], actions.astype(np.float32))
    with pytest.raises(ValueError, match=r"actions outside 0\.\.\[3\]"):
        go(frames[:, :9], [*actions[:12], np.array([4])])


def test_the_lines_of_the_readme(tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = (ROOT / "README.md").read_text()
    section = readme.partition("In a notebook")[2].partition("\n## ")[0]
    lines = [line[4:] for line in section.splitlines() if line.startswith("    ") or not line]
    monkeypatch.chdir(tiny_pipeline)
    found = dict[str, object]()
    exec("\n".join(lines), found)
    assert found["video"].shape == (1, 8, 32, 32, 3)
    assert found["video"].dtype == np.uint8
    assert found["again"].shape == found["played"].frames[1:17].shape == (16, 32, 32, 3)
    assert found["latents"].shape == (4, 4, 4, 4)


@pytest.mark.parametrize("package", ["__init__", "sampling", "vae", "world"])
def test_the_public_packages_import_nothing(package: str) -> None:
    code = f"import sys, oniris_core.{package}; print([m for m in ('torch', 'numpy', 'pydantic') if m in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
