"""The law: Parallel, Step and the dense-mask reference give the same numbers; and who reads whom, by gradients."""

from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oniris_core.nn.magnitude import MPConv, force_normalize_
from oniris_core.world.context import Cache, FrameOnly, Parallel, Step
from oniris_core.world.denoiser import Denoiser, DenoiserConfig
from oniris_core.world.temporal import Attention, GatedCausalConv
from oniris_core.world.unet import UNetConfig
from tests.reference import dense_attention, dense_conv


def make(seed=0, precondition="past", window=16, mult=(1, 2), blocks=1, video=(True, True), frame=(False, False)):
    torch.manual_seed(seed)
    unet = UNetConfig(8, mult, blocks, video, frame, 4, window, 0.4)
    denoiser = Denoiser(DenoiserConfig(unet, 3, 4, 4, 5, 0.35, precondition))
    force_normalize_(denoiser)
    with torch.no_grad():  # gains start at zero: open them, or half of the network is not tested
        for name, parameter in denoiser.named_parameters():
            if name.endswith("gain"):
                parameter.fill_(0.7)
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


ARCHITECTURES = st.builds(
    make, seed=st.integers(0, 99), precondition=st.sampled_from(["past", "plain"]), window=st.integers(1, 6),
    mult=st.just((1, 2)), blocks=st.integers(1, 2),
    video=st.tuples(st.booleans(), st.booleans()), frame=st.tuples(st.booleans(), st.booleans()),
)  # fmt: skip


@torch.no_grad()
def stepwise(denoiser, x, sigma, actions, has_action, cuts):
    """Clean and noised results of one frame, or one cut, at a time."""
    cache, clean, noised = Cache(), [], []
    T = x.shape[2]
    for a, b in zip([0, *cuts], [*cuts, T], strict=True):
        for t in range(a, b):  # every noised frame against the cache of the clean frames before it
            before = cache
            if t > a:
                _, before = denoiser(x[:, :1, a:t], sigma[:, :1, a:t], actions[:, a:t], has_action[:, a:t], Step(cache))
            one = slice(t, t + 1)
            noised.append(
                denoiser(x[:, 1:, one], sigma[:, 1:, one], actions[:, one], has_action[:, one], Step(before))[0]
            )
        y, cache = denoiser(x[:, :1, a:b], sigma[:, :1, a:b], actions[:, a:b], has_action[:, a:b], Step(cache))
        clean.append(y)
    return torch.cat([torch.cat(clean, dim=2), torch.cat(noised, dim=2)], dim=1)


@settings(max_examples=12, deadline=None)
@given(
    denoiser=ARCHITECTURES,
    T=st.integers(2, 6),
    B=st.integers(1, 2),
    data_seed=st.integers(0, 99),
    cut=st.integers(1, 5),
)
def test_parallel_step_and_dense_reference_agree(denoiser, T, B, data_seed, cut):
    x, sigma, actions, has_action = data(B, T, data_seed)
    with torch.no_grad():
        parallel, _ = denoiser(x, sigma, actions, has_action, Parallel())
        with patch.object(Attention, "forward", dense_attention), patch.object(GatedCausalConv, "forward", dense_conv):
            dense, _ = denoiser(x, sigma, actions, has_action, Parallel())
    steps = stepwise(denoiser, x, sigma, actions, has_action, [cut] if cut < T else [])
    torch.testing.assert_close(parallel, dense, atol=1e-4, rtol=0)
    torch.testing.assert_close(parallel, steps, atol=1e-4, rtol=0)


def test_one_frame_at_a_time_is_the_same_as_parallel():
    denoiser = make()
    x, sigma, actions, has_action = data(T=6)
    with torch.no_grad():
        parallel, _ = denoiser(x, sigma, actions, has_action, Parallel())
    torch.testing.assert_close(
        stepwise(denoiser, x, sigma, actions, has_action, [1, 2, 3, 4, 5]), parallel, atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("precondition", ["past", "plain"])
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


def test_actions_reach_their_own_frame_and_later_ones_only():
    denoiser = make()
    x, sigma, actions, has_action = data(B=1, T=4)
    actions.requires_grad_()
    y, _ = denoiser(x, sigma, actions, has_action, Parallel())
    for i in range(1, 4):
        (gradient,) = torch.autograd.grad(y[0, 1, i].sum(), actions, retain_graph=True)
        assert (gradient[0].abs().amax(1) > 0).tolist() == [0 < j <= i for j in range(4)]  # row 0 has no action


def test_a_step_leaves_the_old_cache_as_it_was():
    denoiser = make(window=2)
    x, sigma, actions, has_action = data(B=1, T=4)
    with torch.no_grad():
        _, cache = denoiser(x[:, :1, :3], sigma[:, :1, :3], actions[:, :3], has_action[:, :3], Step())
        arguments = x[:, :1, 3:], sigma[:, :1, 3:], actions[:, 3:], has_action[:, 3:]
        first, _ = denoiser(*arguments, Step(cache))
        again, later = denoiser(*arguments, Step(cache))
    assert torch.equal(first, again)
    assert (cache.position, later.position) == (3, 4)
    assert all(b.attention.keys.shape[1] == 2 for b in later.blocks if b.attention)


def test_relative_positions_are_exact_at_frame_one_million():
    denoiser = make(window=3)
    x, sigma, actions, has_action = data(B=1, T=5)
    with torch.no_grad():
        for name, parameter in denoiser.named_parameters():
            if name.endswith("gate"):
                parameter[1] = 0  # the gate looks at the absolute position on purpose
        outputs = []
        for start in (4, 1_000_000):
            _, cache = denoiser(
                x[:, :1, :4], sigma[:, :1, :4], actions[:, :4], has_action[:, :4], Step(Cache(position=start - 4))
            )
            y, _ = denoiser(x[:, :1, 4:], sigma[:, :1, 4:], actions[:, 4:], has_action[:, 4:], Step(cache))
            outputs.append(y)
    torch.testing.assert_close(*outputs, atol=1e-4, rtol=0)


def test_unit_magnitude_at_initialisation():
    # Frames large enough that the zeros around them do not count.
    torch.manual_seed(0)
    unet = UNetConfig(16, (1, 2), 1, (False, False), (False, False), 16, 16, 0.3)
    denoiser = Denoiser(DenoiserConfig(unet, 8, 32, 32, 5, 0.35, "past"))
    force_normalize_(denoiser)
    magnitudes = []
    for block in [*denoiser.unet.encoder, *denoiser.unet.decoder]:
        block.register_forward_hook(
            lambda _m, _i, out: magnitudes.append(out[0].detach().square().mean().sqrt().item())
        )
    x = torch.randn(2, 2, 5, 8, 32, 32)
    denoiser(x, torch.full((2, 2, 5), 0.5), torch.randn(2, 5, 5), torch.ones(2, 5, dtype=torch.bool), Parallel())
    assert len(magnitudes) == 9
    assert max(abs(m - 1) for m in magnitudes) < 0.1, magnitudes


def test_forced_normalisation_restores_unit_weights():
    layer = MPConv(6, 4, kernel=3)
    with torch.no_grad():
        layer.weight.mul_(7)
    force_normalize_(layer)
    torch.testing.assert_close(layer.weight.square().mean((1, 2, 3)).sqrt(), torch.ones(4), atol=1e-3, rtol=0)


def test_wrong_shapes_are_named():
    denoiser = make()
    x, sigma, actions, has_action = data()
    with pytest.raises(ValueError, match=r"latents of shape \[2, 1, 5"):
        denoiser(x[:, :1], sigma[:, :1], actions, has_action, Parallel())
    with pytest.raises(ValueError, match="sigma must be above 0"):
        denoiser(x, 0 * sigma, actions, has_action, Parallel())
    with pytest.raises(ValueError, match=r"actions of shape \[2, 5, 4\]"):
        denoiser(x, sigma, actions[..., :4], has_action, Parallel())
    _, cache = denoiser(x[:, :1], sigma[:, :1], actions, has_action, Step())
    with pytest.raises(ValueError, match="the cache is of 2 rollouts"):
        denoiser(x[:1, :1], sigma[:1, :1], actions[:1], has_action[:1], Step(cache))
