"""The group-causal VAE: chunked equals whole, nothing reads the future, losses are what they say."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oniris_core.common.errors import UserError
from oniris_core.vae.layers import area_resampling
from oniris_core.vae.losses import aggregate_kl, gaussian_nll, worst_share_error
from oniris_core.vae.model import Vae, VaeConfig, to_uint8, to_unit

FACTORS = st.lists(st.tuples(st.sampled_from([1, 2, 3]), st.sampled_from([1, 2])), min_size=1, max_size=3)


def make(levels: list[tuple[int, int]], blocks: int = 1, kernel: int = 3, seed: int = 0) -> Vae:
    torch.manual_seed(seed)
    time, space = zip(*levels, strict=True)
    vae = Vae(VaeConfig(time, space, tuple(4 + 2 * i for i in range(len(levels))), blocks, kernel, 3))
    with torch.no_grad():  # much starts at zero: move it, or half of the network is not tested
        for parameter in vae.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return vae


def video(vae: Vae, groups: int, seed: int = 1) -> torch.Tensor:
    size = 2 * vae.config.space
    return torch.randn(2, groups * vae.config.group, 3, size, size, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=25, deadline=None)
@given(
    levels=FACTORS,
    blocks=st.integers(1, 2),
    kernel=st.sampled_from([1, 3]),
    cut=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_chunked_equals_whole(levels: list[tuple[int, int]], blocks: int, kernel: int, cut: int, seed: int) -> None:
    vae, groups = make(levels, blocks, kernel, seed), 4
    x, noise = video(vae, groups), torch.tensor([0.0, 0.05])
    with torch.no_grad():
        mean, logvar, _ = vae.encoder(x)
        pixels, _, _ = vae.decoder(mean, noise)
        parts, cache = [], None
        for chunk in (x[:, : cut * vae.config.group], x[:, cut * vae.config.group :]):
            m, v, cache = vae.encoder(chunk, cache)
            parts.append((m, v))
        decoded, cache = [], None
        for chunk in (mean[:, :cut], mean[:, cut:]):
            p, _, cache = vae.decoder(chunk, noise, cache)
            decoded.append(p)
    assert mean.shape[1] == groups
    assert pixels.shape == x.shape
    torch.testing.assert_close(torch.cat([m for m, _ in parts], dim=1), mean, atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.cat([v for _, v in parts], dim=1), logvar, atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.cat(decoded, dim=1), pixels, atol=1e-4, rtol=0)


@pytest.mark.parametrize("levels", [[(4, 4), (1, 2)], [(2, 1), (1, 2), (2, 2)], [(1, 2), (3, 1)], [(2, 2), (2, 2)]])
def test_nothing_reads_the_future(levels: list[tuple[int, int]]) -> None:
    vae, groups = make(levels), 4
    g = vae.config.group
    x = video(vae, groups)[:1].requires_grad_()
    mean, _, _ = vae.encoder(x)
    for n in range(groups):
        (gradient,) = torch.autograd.grad(mean[0, n].square().sum(), x, retain_graph=True)
        reads = gradient[0].abs().amax((1, 2, 3)) > 0
        assert not reads[(n + 1) * g :].any()
        assert reads[n * g : (n + 1) * g].all()
        if n:
            assert reads[(n - 1) * g : n * g].any()
    z = mean.detach().requires_grad_()
    pixels, _, _ = vae.decoder(z, torch.zeros(1))
    for n in range(groups):
        (gradient,) = torch.autograd.grad(pixels[0, n * g : (n + 1) * g].square().sum(), z, retain_graph=True)
        reads = gradient[0].abs().amax((1, 2, 3)) > 0
        assert reads.tolist() == [j <= n and j >= n - reads.sum().item() + 1 for j in range(groups)]
        assert reads[n]
        assert n == 0 or reads[n - 1]


def test_group_sizes_follow_the_general_rule() -> None:
    config = VaeConfig((1, 2, 3), (1, 1, 1), (4, 4, 4), 1, 3, 2)
    assert config.group == 6
    assert [config.group_after(level) for level in range(3)] == [6, 3, 1]
    assert VaeConfig((4, 1), (4, 2), (64, 128), 1, 3, 16).compression == 48


def test_past_taps_and_residual_ends_start_at_zero() -> None:
    torch.manual_seed(0)
    vae = Vae(VaeConfig((2, 2), (2, 1), (4, 6), 1, 3, 3))
    x = torch.randn(1, 8, 3, 4, 4)
    with torch.no_grad():
        whole = vae.encoder(x)[0]
        alone = torch.cat([vae.encoder(x[:, :4])[0], vae.encoder(x[:, 4:])[0]], dim=1)
    torch.testing.assert_close(whole, alone, atol=1e-5, rtol=0)


def test_area_resampling() -> None:
    assert torch.equal(area_resampling(4, 2), torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]))
    assert torch.equal(area_resampling(2, 4), torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]]))


def test_losses() -> None:
    g = torch.Generator().manual_seed(0)
    mean, logvar, x = (torch.randn(2, 3, 3, 4, 4, generator=g) for _ in range(3))
    expected = -torch.distributions.Normal(mean, (logvar / 2).exp()).log_prob(x).mean() - 0.5 * np.log(2 * np.pi)
    torch.testing.assert_close(gaussian_nll(mean, logvar, x, 0.0), expected)
    mean.requires_grad_()
    (gradient,) = torch.autograd.grad(gaussian_nll(mean, logvar, x, 1.0), mean)
    torch.testing.assert_close(gradient, (mean - x).detach() / x.numel())  # beta 1: that of half the squared error

    error = (mean.detach() - x).square().mean(2).flatten().sort(descending=True).values
    torch.testing.assert_close(worst_share_error(mean.detach(), x, 0.1), error[: int(0.1 * len(error))].mean())

    z_mean, z_logvar = torch.randn(64, 2, 2, 8, 8, generator=g) * 0.6, torch.full((64, 2, 2, 8, 8), np.log(0.64))
    assert float(aggregate_kl(z_mean, z_logvar)) == pytest.approx(
        0, abs=1e-3
    )  # 0.36 + 0.64 = 1: together standard normal
    assert float(aggregate_kl(z_mean + 1, z_logvar)) == pytest.approx(0.5, abs=0.02)


def test_pixels_survive_the_scaling() -> None:
    frames = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 8, 32, 1).expand(-1, -1, -1, -1, 3)
    assert torch.equal(to_uint8(to_unit(frames)), frames)


def test_wrong_frames_are_named() -> None:
    vae = make([(2, 2)])
    with pytest.raises(ValueError, match=r"uint8 \[B, T, H, W, 3\], not torch.float32"):
        vae.encode(torch.zeros(1, 2, 4, 4, 3))
    with pytest.raises(ValueError, match="3 frames are not a multiple of the group of 2"):
        vae.encode(torch.zeros(1, 3, 4, 4, 3, dtype=torch.uint8))
    with pytest.raises(
        UserError, match="5 x 4 are not divisible by the space compression 2: the nearest valid size is 4 x 4"
    ):
        vae.encode(torch.zeros(1, 2, 5, 4, 3, dtype=torch.uint8))
