"""The law: Parallel, Step and the dense-mask reference give the same numbers; and who reads whom, by gradients."""

import itertools
from unittest.mock import patch

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oniris_core.data.actions import action_spec
from oniris_core.nn.magnitude import MPConv, force_normalize_
from oniris_core.nn.rotary import rotary_angles
from oniris_core.world.context import Before, Cache, FrameOnly, Parallel, Step
from oniris_core.world.denoiser import Denoiser, DenoiserConfig
from oniris_core.world.forecast import Forecast
from oniris_core.world.loss import forecast_loss, noised_errors
from oniris_core.world.temporal import Attention, GatedCausalConv
from oniris_core.world.unet import UNetConfig
from tests.reference import dense_attention, dense_conv


def make(
    seed=0,
    precondition="forecast",
    window=16,
    mult=(1, 2),
    blocks=1,
    video=(True, True),
    frame=(False, False),
    sees=True,
    seen=(1, 2, 4),
):
    torch.manual_seed(seed)
    unet = UNetConfig(8, mult, blocks, video, frame, 4, window, 0.4)
    denoiser = Denoiser(DenoiserConfig(unet, 3, 4, 4, 5, 0.35, precondition, 8, seen, sees))
    force_normalize_(denoiser)
    with torch.no_grad():  # gains start at zero: open them, or half of the network is not tested
        for name, parameter in denoiser.named_parameters():
            if name.endswith("gain"):
                parameter.fill_(0.2 if name.startswith("forecaster") else 0.7)
            if name.endswith("gate"):
                parameter.add_(torch.tensor([0.3, -0.2, 0.0]))
    return denoiser


def data(B=2, T=5, seed=1):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(B, 2, T, 3, 4, 4, generator=g)
    sigma = torch.rand(B, 2, T, generator=g) + 0.1
    sigma[:, 0] = 0.05
    actions = torch.randn(B, T, 5, generator=g)
    has_action = torch.arange(T).expand(B, -1) > 0
    return x, sigma, actions, has_action


@st.composite
def architectures(draw):
    levels = draw(st.integers(1, 3))
    per_level = lambda values: draw(st.tuples(*[values] * levels))  # noqa: E731
    return make(
        draw(st.integers(0, 99)), draw(st.sampled_from(["forecast", "past", "plain"])), draw(st.integers(1, 6)),
        per_level(st.integers(1, 3)), draw(st.integers(1, 2)), per_level(st.booleans()), per_level(st.booleans()),
        draw(st.booleans()), (1, *sorted(draw(st.sets(st.integers(2, 8), min_size=1)))),
    )  # fmt: skip


def frames(batch, stream, a, b):
    """Frames a .. b - 1 of one stream, as arguments of a step."""
    x, sigma, actions, has_action = batch
    return x[:, stream, None, a:b], sigma[:, stream, None, a:b], actions[:, a:b], has_action[:, a:b]


def stepwise(denoiser, batch, cuts):
    """What both streams come to when the clip enters cut by cut, and noised frames are looked at before they do."""
    T = batch[0].shape[2]
    cache, clean, noised = Cache(), [], []
    for a, b in itertools.pairwise([0, *cuts, T]):
        before = cache.repeat(1) if a else cache  # the whole cut may overwrite what the single frames below still read
        y, cache = denoiser(*frames(batch, 0, a, b), Step(cache))
        clean.append(y)
        for t in range(a, b):
            noised.append(denoiser(*frames(batch, 1, t, t + 1), Step(before))[0])
            _, before = denoiser(*frames(batch, 0, t, t + 1), Step(before))
    return torch.cat([torch.cat(clean, dim=2), torch.cat(noised, dim=2)], dim=1)


def dense(denoiser, batch):
    with patch.object(Attention, "forward", dense_attention), patch.object(GatedCausalConv, "forward", dense_conv):
        return denoiser(*batch, Parallel())[0]


@torch.no_grad()
@settings(max_examples=25, deadline=None)
@given(
    denoiser=architectures(),
    T=st.integers(2, 9),
    B=st.integers(1, 3),
    data_seed=st.integers(0, 99),
    cuts=st.sets(st.integers(1, 8)),
)
def test_parallel_step_and_dense_reference_agree(denoiser, T, B, data_seed, cuts):
    batch = data(B, T, data_seed)
    reference = dense(denoiser, batch)
    steps = stepwise(denoiser, batch, sorted(cut for cut in cuts if cut < T))
    torch.testing.assert_close(denoiser(*batch, Parallel())[0], reference, atol=1e-4, rtol=0)
    torch.testing.assert_close(steps, reference, atol=1e-4, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("cuts", [[], range(1, 30), [10, 11, 25]])
def test_a_window_slides_over_a_long_clip(cuts):
    """Prefill longer than the window, single frames, and both: the ring goes round ten times."""
    denoiser, batch = make(window=2), data(B=1, T=30)
    torch.testing.assert_close(stepwise(denoiser, batch, cuts), dense(denoiser, batch), atol=1e-4, rtol=0)
    wide = dense(make(window=3), batch)
    assert (wide - dense(denoiser, batch)).abs().max() > 1e-2  # the window is felt


@pytest.mark.parametrize("precondition", ["forecast", "past", "plain"])
def test_who_reads_whom_by_gradients(precondition):
    denoiser, T = make(precondition=precondition), 4
    x, sigma, actions, has_action = data(B=1, T=T)
    x.requires_grad_()
    y, _ = denoiser(x, sigma, actions, has_action, Parallel())
    for stream in range(2):
        for i in range(T):
            (gradient,) = torch.autograd.grad(y[0, stream, i].square().sum(), x, retain_graph=True)
            reads = gradient[0].abs().amax((2, 3, 4)) > 0  # [S, T]
            clean_until = i + 1 if stream == 0 else i
            assert reads[0].tolist() == [j < clean_until for j in range(T)]
            assert reads[1].tolist() == [stream == 1 and j == i for j in range(T)]


@settings(max_examples=10, deadline=None)
@given(denoiser=architectures(), data_seed=st.integers(0, 99))
def test_nobody_reads_what_is_forbidden_by_gradients(denoiser, data_seed):
    """Exactly zero, whatever the architecture."""
    T, (x, *others) = 4, data(B=1, T=4, seed=data_seed)
    x.requires_grad_()
    y, _ = denoiser(x, *others, Parallel())
    for stream, i in itertools.product(range(2), range(T)):
        (gradient,) = torch.autograd.grad(y[0, stream, i].square().sum(), x, retain_graph=True)
        clean, noised = gradient[0].abs().amax((2, 3, 4))
        assert clean[i + 1 :].sum() == 0
        assert stream == 0 or clean[i] == 0
        assert noised[[j for j in range(T) if stream == 0 or j != i]].sum() == 0


def test_frame_only_reads_only_its_frame_and_uses_no_temporal_weight():
    denoiser = make()
    x, sigma, actions, has_action = data(B=1, T=3)
    x = x[:, :1].clone().requires_grad_()
    y, cache = denoiser(x, sigma[:, :1], actions, has_action, FrameOnly())
    (gradient,) = torch.autograd.grad(y[0, 0, 1].sum(), x, retain_graph=True)
    assert (gradient[0, 0].abs().amax((1, 2, 3)) > 0).tolist() == [False, True, False]
    y.sum().backward()
    assert all(p.grad is None for name, p in denoiser.named_parameters() if ".past." in name or name.endswith(".gate"))
    assert cache == Cache()


SPACES = [
    gym.spaces.Discrete(4, start=2), gym.spaces.Box(np.float32([-1, 0]), np.float32([1, 3])),
    gym.spaces.MultiDiscrete([2, 3]), gym.spaces.MultiBinary(3),
]  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("space", SPACES, ids=lambda space: type(space).__name__)
def test_withheld_actions_are_the_same_whatever_they_were_and_unlike_any_other(space):
    spec, c = action_spec(space), 2
    torch.manual_seed(0)
    unet = UNetConfig(8, (1,), 1, (True,), (False,), 4, 4, 0.4)
    denoiser = Denoiser(DenoiserConfig(unet, 3, 4, 4, c * spec.features, 0.35, "past"))
    for name, parameter in denoiser.named_parameters():
        if name.endswith("gain"):
            parameter.fill_(0.7)
    space.seed(0)
    samples = np.stack([[space.sample() for _ in range(c)] for _ in range(12)])
    actions = torch.from_numpy(spec.encode(samples)).reshape(12, 1, -1)
    x, sigma = torch.randn(1, 1, 1, 3, 4, 4).expand(12, -1, -1, -1, -1, -1), torch.ones(12, 1, 1)
    there = torch.ones(12, 1, dtype=torch.bool)
    withheld, _ = denoiser(x, sigma, actions, ~there, Step())
    known, _ = denoiser(x, sigma, actions, there, Step())
    torch.testing.assert_close(withheld, withheld[:1].expand_as(withheld), atol=1e-6, rtol=0)
    assert ((known - withheld).abs().amax((1, 2, 3, 4, 5)) > 1e-3).all()
    assert (known - known[:1]).abs().max() > 1e-3  # and those that are given matter


def test_actions_reach_their_own_frame_and_later_ones_only():
    denoiser = make()
    x, sigma, actions, has_action = data(B=1, T=4)
    actions.requires_grad_()
    y, _ = denoiser(x, sigma, actions, has_action, Parallel())
    for i in range(1, 4):
        (gradient,) = torch.autograd.grad(y[0, 1, i].sum(), actions, retain_graph=True)
        assert (gradient[0].abs().amax(1) > 0).tolist() == [0 < j <= i for j in range(4)]  # row 0 has no action


@torch.no_grad()
def test_steps_of_one_frame_leave_the_cache_they_start_from_as_it_was():
    denoiser, batch = make(window=2), data(B=1, T=5)
    _, cache = denoiser(*frames(batch, 0, 0, 4), Step())
    first, other = denoiser(*frames(batch, 0, 4, 5), Step(cache))
    denoiser(*frames(batch, 1, 4, 5), Step(cache))
    again, later = denoiser(*frames(batch, 0, 4, 5), Step(cache))
    assert torch.equal(first, again)
    assert (cache.position, later.position) == (4, 5)
    attention = [(b.attention, a.attention) for b, a in zip(cache.blocks, later.blocks, strict=True) if b.attention]
    assert all(before.keys.data_ptr() == after.keys.data_ptr() for before, after in attention)  # nothing was copied
    assert all(before.keys.shape[2] == 3 for before, _ in attention)
    with pytest.raises(ValueError, match=r"this cache of 5 frames is stale: .* frame 4 of its window of 2"):
        denoiser(*frames(batch, 0, 4, 5), Step(other))  # the same frame, but written by a later step


@torch.no_grad()
@settings(max_examples=40, deadline=None)
@given(choices=st.lists(st.tuples(st.integers(0, 99), st.integers(1, 4), st.booleans()), max_size=8))
def test_a_cache_gives_the_right_numbers_or_is_refused(choices):
    """Steps from any cache made so far, copied or not, against the frames it stands for, run afresh."""
    denoiser, g = make(window=2), torch.Generator().manual_seed(0)

    def step(x, cache):
        B, _, T = x.shape[:3]
        return denoiser(x, torch.full((B, 1, T), 0.1), torch.zeros(B, T, 5), torch.ones(B, T, dtype=torch.bool), cache)

    x = torch.randn(1, 1, 2, 3, 4, 4, generator=g)
    known = [(x, step(x, Step())[1])]
    for which, length, copied in choices:
        past, cache = known[which % len(known)]
        new = torch.randn(1, 1, length, 3, 4, 4, generator=g)
        whole = torch.cat([past, new], dim=2)
        try:
            y, after = step(new, Step(cache.repeat(1) if copied else cache))
        except ValueError as error:
            assert "stale" in str(error)  # noqa: PT017
            assert which % len(known) < len(known) - 1  # the newest cache never is
            continue
        torch.testing.assert_close(y, step(whole, Step())[0][:, :, -length:], atol=1e-4, rtol=0)
        known.append((whole, after))


@torch.no_grad()
def test_one_context_continues_in_many_ways():
    denoiser, batch = make(window=2), data(B=2, T=5)
    _, cache = denoiser(*frames(batch, 0, 0, 4), Step())
    whole, _ = denoiser(*frames(batch, 0, 4, 5), Step(cache.repeat(1)))
    twice = cache.repeat(2)
    y, _ = denoiser(*(part.repeat_interleave(2, 0) for part in frames(batch, 0, 4, 5)), Step(twice))
    torch.testing.assert_close(y, whole.repeat_interleave(2, 0), atol=1e-5, rtol=0)
    picked = [1, 0, 1]
    y, _ = denoiser(*(part[picked] for part in frames(batch, 0, 4, 5)), Step(cache.select(picked)))
    torch.testing.assert_close(y, whole[picked], atol=1e-5, rtol=0)
    for _ in range(4):  # a copy lives on whatever happens to the others
        _, cache = denoiser(*frames(batch, 1, 4, 5), Step(cache))
    y, _ = denoiser(*(part[picked] for part in frames(batch, 0, 4, 5)), Step(twice.select([2, 0, 2])))
    torch.testing.assert_close(y, whole[picked], atol=1e-5, rtol=0)
    for rows in ([2], [-1], []):
        with pytest.raises(ValueError, match=r"a cache of 2 rollouts has no rows"):
            cache.select(rows)
    with pytest.raises(ValueError, match="a cache of 0 rollouts"):
        Cache().repeat(2)


@torch.no_grad()
def test_relative_positions_are_exact_at_frame_one_million():
    denoiser, batch = make(window=3), data(B=1, T=9)
    for name, parameter in denoiser.named_parameters():
        if name.endswith("gate"):
            parameter[1] = 0  # the gate looks at the absolute position on purpose
    outputs = []
    for start in (0, 1_000_000):
        y, cache = denoiser(*frames(batch, 0, 0, 6), Step(Cache(start)))
        assert cache.position == start + 6
        outputs.append(torch.cat([y, denoiser(*frames(batch, 0, 6, 9), Step(cache))[0]], dim=2))
    torch.testing.assert_close(*outputs, atol=1e-4, rtol=0)


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
    unet = UNetConfig(64, (1, 1), 1, video, frame, 32, 16, 0.3)
    denoiser, found, change = Denoiser(DenoiserConfig(unet, 8, size, size, 5, 0.35, "past")), [], 0.35
    force_normalize_(denoiser)
    rms = lambda z: float(z.square().mean().sqrt())  # noqa: E731
    for block in [*denoiser.unet.encoder, *denoiser.unet.decoder]:  # an encoder block normalises what enters first
        block.register_forward_hook(lambda b, x, y: found.append([rms(x[0]) if b.decoder else 1.0, rms(y[0])]))
    x, keep = [torch.randn(2, 8, size, size)], 1 - change**2 / 2
    for _ in range(5):
        x.append(keep * x[-1] + (1 - keep**2) ** 0.5 * torch.randn(2, 8, size, size))
    sigma = torch.tensor([0.05, 0.5])[None, :, None].expand(2, 2, 6)
    x_BSTCHW = torch.stack(x, dim=1)[:, None] + sigma[..., None, None, None] * torch.randn(2, 2, 6, 8, size, size)
    denoiser(x_BSTCHW, sigma, torch.randn(2, 6, 5), torch.ones(2, 6, dtype=torch.bool), Parallel())
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


def test_training_never_looks_at_a_value():
    """It would make a GPU wait. Tensors without values refuse to be looked at."""
    denoiser, batch = make().to("meta"), [part.to("meta") for part in data()]
    y, _ = denoiser(*batch, Parallel())
    y.sum().backward()
    with pytest.raises(RuntimeError):  # a step does look, at its border
        denoiser(*(part[:, :1] for part in batch[:2]), *batch[2:], Step())


def test_wrong_shapes_are_named():
    denoiser = make()
    x, sigma, actions, has_action = data()
    with pytest.raises(ValueError, match=r"latents of shape \[2, 1, 5"):
        denoiser(x[:, :1], sigma[:, :1], actions, has_action, Parallel())
    with pytest.raises(ValueError, match=r"sigma of shape \[2, 1, 5\] does not fit \[2, 2, 5\]"):
        denoiser(x, sigma[:, :1], actions, has_action, Parallel())
    with pytest.raises(ValueError, match=r"actions of shape \[2, 5, 4\]"):
        denoiser(x, sigma, actions[..., :4], has_action, Parallel())
    _, cache = denoiser(x[:, :1], sigma[:, :1], actions, has_action, Step())
    with pytest.raises(ValueError, match="the cache is of 2 rollouts, the frames are of 1"):
        denoiser(x[:1, :1], sigma[:1, :1], actions[:1], has_action[:1], Step(cache))
    with pytest.raises(
        ValueError, match=r"the cache of \[2, 3, 4, 4\] is of another model than this one of \[B, 3, 4, 4\]"
    ):
        make()(x[:, :1], sigma[:, :1], actions, has_action, Step(cache))
    with pytest.raises(ValueError, match=r"sigma must be above 0: latents of shape \[2, 1, 5, 3, 4, 4\], sigma from 0"):
        denoiser(x[:, :1], 0 * sigma[:, :1], actions, has_action, Step(cache))
    with pytest.raises(ValueError, match=r"latents must be finite: latents of shape \[2, 1, 5, 3, 4, 4\]"):
        denoiser(x[:, :1] / 0, sigma[:, :1], actions, has_action, Step(cache))
    with pytest.raises(ValueError, match=r"latents of shape \[2, 1, 0, 3, 4, 4\]"):
        denoiser(*frames((x, sigma, actions, has_action), 0, 0, 0), Step(cache))


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


@pytest.mark.parametrize("sees", [False, True])
def test_with_attention_a_forecast_sees_the_whole_frame(sees):
    """Convolutions alone reach six pixels far."""
    denoiser = make(sees=sees)
    frame = torch.randn(1, 1, 3, 16, 1, generator=torch.Generator().manual_seed(0), requires_grad=True)
    seen = torch.stack([frame, *[frame.detach()] * 2], dim=2)
    found = denoiser.forecaster(seen, torch.zeros(1, 1, 3, 6), torch.full((1, 1), 0.05))
    (gradient,) = torch.autograd.grad(found.mean[..., 0, 0].sum(), frame)
    assert (gradient[0, 0].abs().amax((0, 2)) > 0).tolist() == [row <= 6 or sees for row in range(16)]


@pytest.mark.parametrize("seen", [(1, 2), (1, 2, 4)])
def test_a_forecast_reads_frames_of_the_past_and_the_actions_since_them(seen):
    """By gradients: the frames of these ages, or the first one, and the actions that led from the oldest of them to t."""
    denoiser, T = make(seen=seen), 7
    x, sigma, actions, has_action = data(B=1, T=T)
    x.requires_grad_()
    actions.requires_grad_()
    mean = denoiser.expect(x, sigma, actions, has_action, Parallel()).forecast.mean  # of all frames but the first
    for t in range(1, T):
        gradients = torch.autograd.grad(mean[0, t - 1].square().sum(), [x, actions], retain_graph=True)
        clean, noised = gradients[0][0].abs().amax((2, 3, 4)) > 0
        assert set(clean.nonzero().ravel().tolist()) == {max(t - age, 0) for age in seen}
        assert not noised.any()
        assert (gradients[1][0].abs().amax(1) > 0).tolist() == [max(t - seen[-1] + 2, 1) <= j <= t for j in range(T)]


def test_frames_before_a_clip_are_seen_by_the_forecast_only():
    """What is expected of a clip that is cut out of a longer one is what is expected in that; the network knows no more."""
    denoiser, (x, sigma, actions, has_action), cut = make(seen=(1, 3)), data(T=8), 4
    whole = denoiser.expect(x, sigma, actions, has_action, Parallel())
    before = Before(x[:, 0, :cut], sigma[:, 0, :cut], actions[:, :cut], has_action[:, :cut])
    part = (x[:, :, cut:], sigma[:, :, cut:], actions[:, cut:], has_action[:, cut:])
    expected = denoiser.expect(*part, Parallel(before))
    for name in ("center", "spread", "scale"):
        torch.testing.assert_close(getattr(expected, name), getattr(whole, name)[:, :, cut:], atol=1e-6, rtol=0)
    assert expected.forecast.mean.shape[1] == 4  # the first frame of the clip has a past
    given, _ = denoiser(*part, Parallel(), expected)
    torch.testing.assert_close(denoiser(*part, Parallel(before))[0], given, atol=1e-6, rtol=0)
    losses = [
        forecast_loss(denoiser, x[:, 0, a:], actions[:, a:], has_action[:, a:], sigma[:, 0, 0], 0 * x[:, 0, a:], 4)
        for a in (0, 1)  # the forecast of frame 4 sees frames 1 and 3
    ]
    assert torch.equal(*losses)
    noise = torch.zeros_like(x[:, 0])
    errors = noised_errors(
        denoiser, x[:, 0], actions, has_action, sigma[:, 1, cut:], noise[:, cut:], sigma[:, 0, 0], noise
    )
    torch.testing.assert_close(errors.forecast, losses[0], atol=1e-6, rtol=0)


def test_a_convolution_works_out_its_past_once_for_all_noise_levels_of_a_frame():
    denoiser, batch = make(), data()
    _, cache = denoiser(*frames(batch, 0, 0, 3), Step())
    x, sigma, actions, has_action = frames(batch, 1, 3, 4)
    called = []
    for module in denoiser.modules():
        if isinstance(module, GatedCausalConv):
            module.past.register_forward_hook(lambda *_: called.append(1))
    first = denoiser(x, sigma, actions, has_action, Step(cache))[0]
    blocks = len(called)
    again = denoiser(x, sigma, actions, has_action, Step(cache))[0]
    denoiser(x, 2 * sigma, actions, has_action, Step(cache))
    assert blocks == len(called) == len(cache.blocks) > 0
    assert torch.equal(first, again)
    denoiser(x, sigma, actions, has_action, Step(cache.repeat(1)))  # a copy knows nothing of that
    assert len(called) == 2 * blocks


def test_a_forecast_made_before_serves_every_noise_level():
    """Given or computed, what is expected is the same, and it does not depend on the frame it is about."""
    denoiser, batch = make(), data()
    _, cache = denoiser(*frames(batch, 0, 0, 3), Step())
    x, sigma, actions, has_action = frames(batch, 1, 3, 4)
    with torch.no_grad():  # as a step does, and generation: with gradients the convolutions round otherwise
        expected = denoiser.expect(0 * x, 0 * sigma + 1, actions, has_action, Step(cache))
    for level in (0.1, 2.0):
        inputs = (x, 0 * sigma + level, actions, has_action)
        given, _ = denoiser(*inputs, Step(cache.repeat(1)), expected)
        computed, _ = denoiser(*inputs, Step(cache.repeat(1)))
        assert torch.equal(given, computed)


def test_the_denoising_loss_leaves_the_forecast_alone():
    """Each learns from its own loss: else the network could make its task easy by a forecast that is wrong."""
    denoiser, (x, sigma, actions, has_action) = make(), data()
    errors = noised_errors(
        denoiser, x[:, 0], actions, has_action, sigma[:, 1], x[:, 1], sigma[:, 0, 0], torch.zeros_like(x[:, 0])
    )
    errors.loss.mean().backward()
    assert all(p.grad is None for p in denoiser.forecaster.parameters())
    assert errors.forecast.shape == (2, 4)  # the first frame of a clip has no past to be forecast from
    errors.forecast.mean().backward()
    assert all(p.grad is not None for p in denoiser.forecaster.parameters())
