"""The law: whole clips, frame by frame and the dense-mask reference give the same numbers; and who reads whom, by gradients."""

import itertools

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oniris_core.data.rows.actions import action_spec
from oniris_core.nn.magnitude import MPConv, force_normalize_
from oniris_core.nn.rotary import rotary_angles
from oniris_core.world.denoiser import Denoiser, DenoiserConfig, Frames
from oniris_core.world.forecast import Forecast
from oniris_core.world.generation_form import GenerationForm
from oniris_core.world.loss import clean_frames, forecast_loss, noised_errors
from oniris_core.world.rollout_state import tensors
from oniris_core.world.unet import UNetConfig
from tests.reference import dense, stepwise


def make(
    seed=0,
    window=16,
    mult=(1, 2),
    blocks=1,
    video=(True, True),
    frame=(False, False),
    seen=(1, 2, 4),
    outcomes=None,
):
    torch.manual_seed(seed)
    unet = UNetConfig(8, mult, blocks, video, frame, 4, window)
    denoiser = Denoiser(DenoiserConfig(unet, 3, 4, 4, 5, 0.35, 8, seen, outcomes))
    force_normalize_(denoiser)
    with torch.no_grad():  # gains start at zero: open them, or half of the network is not tested
        for name, parameter in denoiser.named_parameters():
            if name.endswith("gain"):
                parameter.fill_(0.2 if name.startswith("forecaster") else 0.7)
            if name.endswith("gate"):
                parameter.add_(torch.tensor([0.3, -0.2, 0.0]))
    return denoiser


def data(B=2, T=5, seed=1):
    """Clean frames, noised ones and their noise levels."""
    g = torch.Generator().manual_seed(seed)
    x, noised = torch.randn(B, 2, T, 3, 4, 4, generator=g).unbind(1)
    sigma = torch.rand(B, T, generator=g) + 0.1
    clean = Frames(x, torch.full((B, T), 0.05), torch.randn(B, T, 5, generator=g), torch.arange(T).expand(B, -1) > 0)
    return clean, noised, sigma


def doubled(denoiser, batch):
    """Both in float64: what differs there is no rounding."""
    clean, x, sigma = batch
    clean = Frames(clean.x.double(), clean.sigma.double(), clean.actions.double(), clean.has_action)
    return denoiser.double(), (clean, x.double(), sigma.double())


@st.composite
def architectures(draw):
    levels = draw(st.integers(1, 3))
    per_level = lambda values: draw(st.tuples(*[values] * levels))  # noqa: E731
    return make(
        draw(st.integers(0, 99)), draw(st.integers(1, 6)),
        per_level(st.integers(1, 3)), draw(st.integers(1, 2)), per_level(st.booleans()), per_level(st.booleans()),
        (1, *sorted(draw(st.sets(st.integers(2, 8), min_size=1)))),
    )  # fmt: skip


def relative(found, expected):
    """The largest difference, relative to the largest value."""
    return float((found - expected).abs().max() / expected.abs().max())


@torch.no_grad()
@settings(max_examples=25, deadline=None)
@given(
    denoiser=architectures(),
    T=st.integers(1, 9),
    B=st.integers(1, 3),
    data_seed=st.integers(0, 99),
    slots=st.sampled_from([None, 1, 2]),
)
def test_whole_clips_frame_by_frame_and_the_dense_reference_agree(denoiser, T, B, data_seed, slots):
    """To 1e-5 of the largest value in float32, and to 1e-9 in float64, where an error in the equations could not hide."""
    batch = data(B, T, data_seed)
    with dense():
        reference = denoiser(*batch)
    assert relative(denoiser(*batch), reference) < 1e-5
    assert relative(stepwise(GenerationForm(denoiser), *batch, slots), reference) < 1e-5
    denoiser, batch = doubled(denoiser, batch)
    with dense():
        reference = denoiser(*batch)
    assert relative(denoiser(*batch), reference) < 1e-9
    assert relative(stepwise(GenerationForm(denoiser), *batch, slots), reference) < 1e-9


@torch.no_grad()
@pytest.mark.parametrize("slots", [None, 1])
def test_a_window_slides_over_a_long_clip(slots):
    """The slots of the window are written ten times over."""
    denoiser, batch = make(window=2), data(B=1, T=30)
    with dense():
        reference, wide = denoiser(*batch), make(window=3)(*batch)
    assert relative(denoiser(*batch), reference) < 1e-5
    assert relative(stepwise(GenerationForm(denoiser), *batch, slots), reference) < 1e-5
    assert (wide - reference).abs().max() > 1e-2  # the window is felt


def test_who_reads_whom_by_gradients():
    denoiser, T = make(), 4
    clean, x, sigma = data(B=1, T=T)
    clean.x.requires_grad_()
    x.requires_grad_()
    y = denoiser(clean, x, sigma)
    for stream in range(2):
        for i in range(T):
            gradients = torch.autograd.grad(y[0, stream, i].square().sum(), [clean.x, x], retain_graph=True)
            reads_clean, reads_noised = (gradient[0].abs().amax((1, 2, 3)) > 0 for gradient in gradients)
            clean_until = i + 1 if stream == 0 else i
            assert reads_clean.tolist() == [j < clean_until for j in range(T)]
            assert reads_noised.tolist() == [stream == 1 and j == i for j in range(T)]


@settings(max_examples=10, deadline=None)
@given(denoiser=architectures(), data_seed=st.integers(0, 99))
def test_nobody_reads_what_is_forbidden_by_gradients(denoiser, data_seed):
    """Exactly zero, whatever the architecture."""
    T, (clean, x, sigma) = 4, data(B=1, T=4, seed=data_seed)
    clean.x.requires_grad_()
    x.requires_grad_()
    y = denoiser(clean, x, sigma)
    for stream, i in itertools.product(range(2), range(T)):
        gradients = torch.autograd.grad(y[0, stream, i].square().sum(), [clean.x, x], retain_graph=True)
        of_clean, of_noised = (gradient[0].abs().amax((1, 2, 3)) for gradient in gradients)
        assert of_clean[i + 1 :].sum() == 0
        assert stream == 0 or of_clean[i] == 0
        assert of_noised[[j for j in range(T) if stream == 0 or j != i]].sum() == 0


SPACES = [
    gym.spaces.Discrete(4, start=2), gym.spaces.Box(np.float32([-1, 0]), np.float32([1, 3])),
    gym.spaces.MultiDiscrete([2, 3]), gym.spaces.MultiBinary(3),
]  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("space", SPACES, ids=lambda space: type(space).__name__)
def test_withheld_actions_are_the_same_whatever_they_were_and_unlike_any_other(space):
    spec, c = action_spec(space), 2
    torch.manual_seed(0)
    unet = UNetConfig(8, (1,), 1, (True,), (False,), 4, 4)
    denoiser = Denoiser(DenoiserConfig(unet, 3, 4, 4, c * spec.features, 0.35, 8, (1, 2)))
    for name, parameter in denoiser.named_parameters():
        if name.endswith("gain"):
            parameter.fill_(0.7)
    space.seed(0)
    samples = np.stack([[space.sample() for _ in range(c)] for _ in range(12)])
    actions = torch.from_numpy(spec.encode(samples)).reshape(12, 1, -1)
    x, sigma = torch.randn(1, 1, 3, 4, 4).expand(12, -1, -1, -1, -1), torch.ones(12, 1)
    there = torch.ones(12, 1, dtype=torch.bool)
    withheld, known = (denoiser(Frames(x, sigma, actions, told), x, sigma) for told in (~there, there))
    torch.testing.assert_close(withheld, withheld[:1].expand_as(withheld), atol=1e-6, rtol=0)
    assert ((known - withheld).abs().amax((1, 2, 3, 4, 5)) > 1e-3).all()
    assert (known - known[:1]).abs().max() > 1e-3  # and those that are given matter


def test_actions_reach_their_own_frame_and_later_ones_only():
    denoiser = make()
    clean, x, sigma = data(B=1, T=4)
    clean.actions.requires_grad_()
    y = denoiser(clean, x, sigma)
    for i in range(1, 4):
        (gradient,) = torch.autograd.grad(y[0, 1, i].sum(), clean.actions, retain_graph=True)
        assert (gradient[0].abs().amax(1) > 0).tolist() == [0 < j <= i for j in range(4)]  # row 0 has no action


def entered(form, clean, rows=slice(None), upto=None):
    """The state after clean frames, some rows of the batch."""
    state = form.begin(clean.x[rows, 0], clean.sigma[rows, 0])
    for t in range(clean.x.shape[1] if upto is None else upto):
        told = form.tell(clean.actions[rows, t], clean.has_action[rows, t])
        state = form.enter(state, form.look_ahead(state, told), told, clean.x[rows, t], clean.sigma[rows, t])
    return state


def look(form, state, clean, x, sigma, t, rows=slice(None)):
    """What a state takes noised frame t for."""
    ahead = form.look_ahead(state, form.tell(clean.actions[rows, t], clean.has_action[rows, t]))
    return form.denoise(state, ahead, x[rows, t], sigma[rows, t])


@torch.no_grad()
def test_a_state_is_never_changed():
    """Whatever is made of it: it can be kept, and gone on from again."""
    form, batch = GenerationForm(make(window=2)), data(B=2, T=6)
    state = entered(form, batch[0], upto=4)
    copies = [part.clone() for part in tensors(state)]
    first = look(form, state, *batch, 4)
    for t in (4, 5):
        told = form.tell(batch[0].actions[:, t], batch[0].has_action[:, t])
        form.enter(state, form.look_ahead(state, told), told, batch[1][:, t], batch[2][:, t])
    for other in (
        state.select([1, 0]),
        state.repeat(2),
        form.grow(state, 64),
        state.replace_rows([1], state.select([0])),
    ):
        look(form, other.select([0, 1]), *batch, 4)
    assert all(torch.equal(part, copy) for part, copy in zip(tensors(state), copies, strict=True))
    assert torch.equal(look(form, state, *batch, 4), first)


@torch.no_grad()
def test_rows_know_nothing_of_each_other():
    """Rollouts of different ages side by side, some replaced by fresh ones: to the bit as among their likes."""
    form, batch = GenerationForm(make(window=3, video=(False, True))), data(B=4, T=9)
    old, young = entered(form, batch[0], upto=7), entered(form, batch[0], upto=2)
    mixed = old.replace_rows([2, 0], young.select([2, 0]))
    assert mixed.position.tolist() == [2, 7, 2, 7]
    for t in (7, 8):
        of_old, of_young, of_mixed = (look(form, state, *batch, t) for state in (old, young, mixed))
        assert torch.equal(of_mixed[[1, 3]], of_old[[1, 3]])
        assert torch.equal(of_mixed[[0, 2]], of_young[[0, 2]])
        old, young, mixed = (
            form.enter(state, form.look_ahead(state, told), told, batch[1][:, t], batch[2][:, t])
            for state in (old, young, mixed)
            for told in [form.tell(batch[0].actions[:, t], batch[0].has_action[:, t])]
        )
    assert mixed.position.tolist() == [4, 9, 4, 9]
    for rows in ([4], [-1], []):
        with pytest.raises(ValueError, match=r"a state of 4 rollouts has no rows"):
            old.select(rows)
    with pytest.raises(ValueError, match=r"1 fresh rollouts do not fit rows \[0, 1\] of a state of 4 rollouts"):
        old.replace_rows([0, 1], young.select([0]))
    with pytest.raises(ValueError, match="of another model"):
        old.replace_rows([0], entered(GenerationForm(make(window=2)), batch[0]).select([0]))


@torch.no_grad()
def test_one_context_continues_in_many_ways():
    form, batch = GenerationForm(make(window=2)), data(B=2, T=5)
    state = entered(form, batch[0], upto=4)
    picked, whole = [1, 0, 1, 1], look(form, state, *batch, 4)
    found = look(form, state.select(picked), *batch, 4, picked)
    torch.testing.assert_close(found, whole[picked], atol=1e-5, rtol=1e-5)
    twice = look(form, state.repeat(2), *batch, 4, [0, 0, 1, 1])
    torch.testing.assert_close(twice, whole[[0, 0, 1, 1]], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_relative_positions_are_exact_at_frame_one_million():
    denoiser, batch = make(window=3), data(B=1, T=9)
    for name, parameter in denoiser.named_parameters():
        if name.endswith("gate"):
            parameter[1] = 0  # the gate looks at the absolute position on purpose
    form, found = GenerationForm(denoiser), []
    for later in (0, 999_999):  # a multiple of the window, so that the slots are the same
        clean, state = batch[0], entered_at(form, batch[0], later)
        for t in range(1, 8):
            told = form.tell(clean.actions[:, t], clean.has_action[:, t])
            state = form.enter(state, form.look_ahead(state, told), told, clean.x[:, t], clean.sigma[:, t])
        assert state.position.tolist() == [later + 8]
        found.append(look(form, state, *batch, 8))
    torch.testing.assert_close(*found, atol=1e-4, rtol=0)


def entered_at(form, clean, position):
    """The state after the first frame, as if it were frame `position` that had no past."""
    state = entered(form, clean, upto=1)
    moved = state.position + position
    keys = tuple(_turned(key, state.position - 1, moved - 1) for key in state.keys)
    return state._replace(position=moved, keys=keys)


def _turned(key, before, after):
    """Keys [B, N, D, V * P] rotated for position `before`, rotated for `after` instead."""
    D = key.shape[2]
    (cos0, sin0), (cos1, sin1) = (rotary_angles(where, D) for where in (before, after))
    cos, sin = cos1 * cos0 + sin1 * sin0, sin1 * cos0 - cos1 * sin0
    a, b = key.chunk(2, dim=2)
    cos, sin = cos[:, None, :, None], sin[:, None, :, None]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=2)


def test_rotations_are_exact_at_frame_one_million():
    """Against exact integer arithmetic on the angle: pairs of frames 0 .. 64 apart, a million frames later."""
    for channels in (4, 32, 128):
        ago = torch.arange(65)
        for start in (0, 1_000_000, 2**31):
            cos, sin = (part.double() for part in rotary_angles(start + ago, channels))
            between = torch.complex(cos, sin) * torch.complex(cos[:1], -sin[:1])  # from the first frame to each
            wanted = torch.complex(*(part.double() for part in rotary_angles(ago, channels)))
            assert float((between - wanted).abs().max()) < 1e-6


@torch.no_grad()
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize(("height", "width"), [(4, 4), (8, 4), (64, 64)])
def test_a_convolution_keeps_unit_magnitude_on_frames_of_any_size(kernel, height, width):
    torch.manual_seed(0)
    y = MPConv(32, 256, kernel)(torch.randn(16, 32, height, width))
    assert float(y.square().mean().sqrt()) == pytest.approx(1, abs=0.02)


def magnitudes(size, video, frame, seed):
    """Root-mean-square of what enters and leaves each block at initialisation, for inputs as training has them."""
    torch.manual_seed(seed)
    unet = UNetConfig(64, (1, 1), 1, video, frame, 32, 16)
    denoiser, found, change = Denoiser(DenoiserConfig(unet, 8, size, size, 5, 0.35, 32, (1, 2))), [], 0.35
    force_normalize_(denoiser)
    rms = lambda z: float(z.square().mean().sqrt())  # noqa: E731
    for block in [*denoiser.unet.encoder, *denoiser.unet.decoder]:  # an encoder block normalises what enters first
        block.register_forward_hook(lambda b, x, y: found.append([rms(x[0]) if b.decoder else 1.0, rms(y[0])]))
    x, keep = [torch.randn(2, 8, size, size)], 1 - change**2 / 2
    for _ in range(5):
        x.append(keep * x[-1] + (1 - keep**2) ** 0.5 * torch.randn(2, 8, size, size))
    (clean, clean_sigma), (noised, sigma) = (
        (torch.stack(x, dim=1) + level * torch.randn(2, 6, 8, size, size), torch.full((2, 6), level))
        for level in (0.05, 0.5)
    )
    denoiser(Frames(clean, clean_sigma, torch.randn(2, 6, 5), torch.ones(2, 6, dtype=torch.bool)), noised, sigma)
    return torch.tensor(found).unbind(1)


@torch.no_grad()
@pytest.mark.parametrize("size", [4, 8, 32])
def test_unit_magnitude_at_initialisation(size):
    _, out = magnitudes(size, (False, False), (False, False), seed=0)
    assert len(out) == 9
    assert float((out - 1).abs().max()) < 0.1, out


@torch.no_grad()
def test_unit_magnitude_of_each_block_with_attention():
    """Attention averages values that differ, so each such block loses a little: 10 % of what enters it at most."""
    ratios = []
    for seed in range(4):
        entered, left = magnitudes(8, (False, True), (True, False), seed)
        ratios.append(left / entered)
    ratio = torch.stack(ratios).mean(0)
    assert float((ratio - 1).abs().max()) < 0.1, ratio


def test_forced_normalisation_restores_unit_weights():
    layer = MPConv(6, 4, kernel=3)
    with torch.no_grad():
        layer.weight.mul_(7)
    force_normalize_(layer)
    torch.testing.assert_close(layer.weight.square().mean((1, 2, 3)).sqrt(), torch.ones(4), atol=1e-3, rtol=0)


def test_neither_form_looks_at_a_value():
    """It would make a GPU wait, and would not compile or export. Tensors without values refuse to be looked at."""
    denoiser, (clean, *others) = make().to("meta"), data()
    clean = Frames(*(part.to("meta") for part in (clean.x, clean.sigma, clean.actions, clean.has_action)))
    batch = (clean, *(part.to("meta") for part in others))
    denoiser(*batch).sum().backward()
    with pytest.raises(RuntimeError):
        bool(denoiser(*batch).isfinite().all())
    assert stepwise(GenerationForm(denoiser), *batch).shape == (2, 2, 5, 3, 4, 4)


def test_wrong_shapes_are_named():
    denoiser, (clean, x, sigma) = make(), data()
    with pytest.raises(ValueError, match=r"latents of shape \[2, 5, 2, 4, 4\] do not fit \[B, T, 3, 4, 4\]"):
        denoiser(clean, x[:, :, :2], sigma)
    with pytest.raises(ValueError, match=r"latents of shape \[2, 0, 3, 4, 4\]"):
        denoiser(clean, x[:, :0], sigma[:, :0])
    with pytest.raises(ValueError, match=r"clean latents of shape \[2, 4, 3, 4, 4\] do not fit noised ones of \[2, 5"):
        denoiser(clean.last(4), x, sigma)
    with pytest.raises(ValueError, match=r"sigma of shape \[2, 4\] and \[2, 5\] do not fit \[2, 5\] and \[2, 5\]"):
        denoiser(clean, x, sigma[:, :4])
    with pytest.raises(ValueError, match=r"actions of shape \[2, 5, 4\]"):
        denoiser(Frames(clean.x, clean.sigma, clean.actions[..., :4], clean.has_action), x, sigma)


def test_a_forecast_is_best_where_it_is_true():
    """Its loss has its least where mean and spread are those of the frames that come."""
    g = torch.Generator().manual_seed(0)
    x = 0.7 + 0.3 * torch.randn(20000, 1, 1, 1, 1, generator=g)
    mean = torch.zeros(1, 1, 1, 1, 1, requires_grad=True)
    log_spread = torch.zeros(1, 1, 1, 1, 1, requires_grad=True)
    optimizer = torch.optim.Adam([mean, log_spread], lr=0.02)
    for _ in range(400):
        optimizer.zero_grad()
        Forecast(mean.expand_as(x), log_spread.exp().expand_as(x)).loss(x, 0.5).mean().backward()
        optimizer.step()
    assert abs(mean.item() - 0.7) < 0.01
    assert abs(log_spread.exp().item() - 0.3) < 0.01


def test_a_forecast_sees_the_whole_frame():
    """Convolutions alone reach six pixels far."""
    denoiser = make()
    frame = torch.randn(1, 1, 3, 16, 1, generator=torch.Generator().manual_seed(0), requires_grad=True)
    seen = torch.stack([frame, *[frame.detach()] * 2], dim=2)
    found = denoiser.forecaster(seen, torch.zeros(1, 1, 3, 6), torch.full((1, 1), 0.05))
    (gradient,) = torch.autograd.grad(found.mean[..., 0, 0].sum(), frame)
    assert (gradient[0, 0].abs().amax((0, 2)) > 0).all()


@pytest.mark.parametrize("seen", [(1, 2), (1, 2, 4)])
def test_a_forecast_reads_frames_of_the_past_and_the_actions_since_them(seen):
    """By gradients: the frames of these ages, or the first one, and the actions that led from the oldest of them to t."""
    denoiser, T = make(seen=seen), 7
    clean, _, _ = data(B=1, T=T)
    clean.x.requires_grad_()
    clean.actions.requires_grad_()
    mean = denoiser.expect(clean, T).forecast.mean
    for t in range(1, T):
        gradients = torch.autograd.grad(mean[0, t].square().sum(), [clean.x, clean.actions], retain_graph=True)
        reads = gradients[0][0].abs().amax((1, 2, 3)) > 0
        assert set(reads.nonzero().ravel().tolist()) == {max(t - age, 0) for age in seen}
        assert (gradients[1][0].abs().amax(1) > 0).tolist() == [max(t - seen[-1] + 2, 1) <= j <= t for j in range(T)]


def test_frames_before_a_clip_are_seen_by_the_forecast_only():
    """What is expected of a clip that is cut out of a longer one is what is expected in that; the network knows no more."""
    denoiser, (clean, x, sigma), T = make(seen=(1, 3)), data(T=8), 4
    whole, expected = denoiser.expect(clean, 8), denoiser.expect(clean, T)
    for name in ("center", "spread", "scale"):
        torch.testing.assert_close(getattr(expected, name), getattr(whole, name)[:, :, -T:], atol=1e-6, rtol=0)
    given = denoiser(clean.last(T), x[:, -T:], sigma[:, -T:], expected)
    torch.testing.assert_close(denoiser(clean, x[:, -T:], sigma[:, -T:]), given, atol=1e-6, rtol=0)
    level, nothing = clean.sigma[:, 0], torch.zeros_like(clean.x)
    losses = [
        forecast_loss(denoiser, clean.x[:, -T:], denoiser.expect(clean_frames(
            clean.x[:, a:], clean.actions[:, a:], clean.has_action[:, a:], level, nothing[:, a:]
        ), T))
        for a in (0, 1)  # the forecast of frame 4 sees frames 1 and 3
    ]  # fmt: skip
    assert torch.equal(*losses)
    errors = noised_errors(
        denoiser, clean.x, clean.actions, clean.has_action, sigma[:, -T:], nothing[:, -T:], level, nothing
    )
    torch.testing.assert_close(errors.forecast, losses[0], atol=1e-6, rtol=0)


@torch.no_grad()
def test_the_first_frame_of_an_episode_is_expected_in_rollouts_as_in_training():
    """Training puts copies of it in front (`LatentClips`): what rests on it must be the same without them."""
    denoiser, (clean, x, sigma) = make(seen=(1, 3)), data(T=4)
    copies = [torch.cat([part[:, :1].expand(-1, 3, *part.shape[2:]), part], dim=1) for part in (clean.x, clean.sigma)]
    actions = torch.cat([torch.zeros(2, 3, 5), clean.actions], dim=1)
    has_action = torch.cat([torch.zeros(2, 3, dtype=torch.bool), clean.has_action], dim=1)
    trained = denoiser(Frames(*copies, actions, has_action), x, sigma)
    assert relative(denoiser(clean, x, sigma), trained) < 1e-6
    assert relative(stepwise(GenerationForm(denoiser), clean, x, sigma), trained) < 1e-5


def test_the_denoising_loss_leaves_the_forecast_alone():
    """Each learns from its own loss: else the network could make its task easy by a forecast that is wrong."""
    denoiser, (clean, noise, sigma) = make(), data()
    errors = noised_errors(
        denoiser, clean.x, clean.actions, clean.has_action, sigma, noise, clean.sigma[:, 0], 0 * noise
    )
    errors.loss.mean().backward()
    assert all(p.grad is None for p in denoiser.forecaster.parameters())
    assert errors.forecast.shape == (2, 5)
    errors.forecast.mean().backward()
    assert all(p.grad is not None for p in denoiser.forecaster.parameters())
