"""The group-causal VAE: chunked equals whole, nothing reads the future, losses are what they say."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from oniris_core.common.artefacts.weights import save_tensors
from oniris_core.common.errors import UserError
from oniris_core.vae.codec import Codec
from oniris_core.vae.discriminator import PairedDiscriminator, adversarial_loss, discriminator_loss
from oniris_core.vae.layers import area_resampling
from oniris_core.vae.losses import aggregate_kl, censored, gaussian_nll, share_of_pull, worst_share_error
from oniris_core.vae.model import Vae, VaeConfig, to_uint8, to_unit
from oniris_core.vae.perceptual import Perceptual
from oniris_core.vae.stepping import DecoderForm, EncoderForm
from oniris_core.vae.streaming import encode_videos, side_by_side

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


@settings(max_examples=15, deadline=None)
@given(
    levels=FACTORS,
    blocks=st.integers(1, 2),
    kernel=st.sampled_from([1, 3, 5]),
    groups=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_chunked_equals_whole(levels: list[tuple[int, int]], blocks: int, kernel: int, groups: int, seed: int) -> None:
    vae = make(levels, blocks, kernel, seed)
    x, noise, group = video(vae, groups), torch.tensor([0.0, 0.05]), vae.config.group
    with torch.no_grad():
        mean, logvar, _ = vae.encoder(x)
        pixels, spread, _ = vae.decoder(mean, noise)
        assert mean.shape[1] == groups
        assert pixels.shape == x.shape
        for chunk in range(1, groups):
            encoded, decoded, encoder_cache, decoder_cache = [], [], None, None
            for first in range(0, groups, chunk):
                *found, encoder_cache = vae.encoder(x[:, first * group : (first + chunk) * group], encoder_cache)
                encoded.append(found)
                *found, decoder_cache = vae.decoder(mean[:, first : first + chunk], noise, decoder_cache)
                decoded.append(found)
            for parts, wholes in ((encoded, (mean, logvar)), (decoded, (pixels, spread))):
                for part, whole in zip(zip(*parts, strict=True), wholes, strict=True):
                    torch.testing.assert_close(torch.cat(part, dim=1), whole, atol=1e-4, rtol=0)


@settings(max_examples=10, deadline=None)
@given(levels=FACTORS, blocks=st.integers(1, 2), kernel=st.sampled_from([1, 3]), seed=st.integers(0, 99))
@example([(4, 4), (1, 2)], 1, 3, 0)  # early compression, as in the default
@example([(2, 1), (1, 2), (2, 2)], 1, 3, 0)  # a palindrome in time
def test_nothing_reads_the_future(levels: list[tuple[int, int]], blocks: int, kernel: int, seed: int) -> None:
    vae, groups = make(levels, blocks, kernel, seed), 4
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
        assert not reads[n + 1 :].any()
        assert reads[n]
        assert n == 0 or reads[n - 1]


@settings(max_examples=10, deadline=None)
@given(lengths=st.lists(st.integers(1, 7), min_size=1, max_size=5), chunk=st.integers(1, 8), seed=st.integers(0, 99))
def test_videos_of_different_lengths_side_by_side_equal_each_alone(lengths: list[int], chunk: int, seed: int) -> None:
    vae = make([(2, 2), (1, 1)], seed=seed)
    rng, g = np.random.default_rng(seed), vae.config.group
    videos = [rng.integers(0, 256, (n * g, 4, 4, 3), dtype=np.uint8) for n in lengths]

    def read(video: int, first: int, count: int) -> np.ndarray:
        assert count <= chunk
        assert first + count <= lengths[video]
        return videos[video][first * g : (first + count) * g]

    together = encode_videos(vae, read, lengths, chunk, torch.device("cpu"))
    for found, frames in zip(together, videos, strict=True):
        alone, _ = vae.encode(torch.from_numpy(frames)[None])
        np.testing.assert_allclose(found, alone[0].numpy(), atol=1e-4, rtol=0)


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


def test_overshooting_black_or_white_is_no_error_and_everything_else_is() -> None:
    x = torch.tensor([-1.0, -1.0, -1.0, 1.0, 1.0, 1.0, 0.0, 0.0])
    mean = torch.tensor([-1.5, -0.5, 1.5, 1.5, 0.5, -1.5, 1.5, -1.5], requires_grad=True)
    (gradient,) = torch.autograd.grad((censored(mean, x) - x).square().sum(), mean)
    assert gradient.tolist() == [0, 1, 5, 0, -1, -5, 3, -3]


def test_pixels_survive_the_scaling() -> None:
    frames = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 8, 32, 1).expand(-1, -1, -1, -1, 3)
    assert torch.equal(to_uint8(to_unit(frames)), frames)


def test_wrong_frames_are_named() -> None:
    vae = make([(2, 2)])
    with pytest.raises(ValueError, match=r"uint8 \[B, T, H, W, 3\], not torch.float32"):
        vae.encode(torch.zeros(1, 2, 4, 4, 3))
    with pytest.raises(ValueError, match="3 frames are not a multiple of the group of 2: give 2 or 4"):
        vae.encode(torch.zeros(1, 3, 4, 4, 3, dtype=torch.uint8))
    with pytest.raises(
        UserError, match="5 x 4 are not divisible by the space compression 2: the nearest valid size is 4 x 4"
    ):
        vae.encode(torch.zeros(1, 2, 5, 4, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"latents must be \[videos, t, 3 channels, h, w\], not \[1, 2, 4, 2, 2\]"):
        vae.decode(torch.zeros(1, 2, 4, 2, 2))
    with pytest.raises(ValueError, match=r"latents \[1, 1, 3, 2, 2\] hold values that are not finite"):
        vae.decode(torch.full((1, 1, 3, 2, 2), float("nan")))


def test_the_codec_takes_a_video_in_pieces_and_names_what_is_wrong() -> None:
    codec = Codec(make([(2, 2)]), "identity")
    frames = np.random.default_rng(0).integers(0, 256, (2 * 70, 4, 4, 3), dtype=np.uint8)  # more than two chunks
    latents = codec.encode(frames)
    whole, _ = codec.vae.encode(torch.from_numpy(frames)[None])
    np.testing.assert_allclose(latents, whole[0].numpy(), atol=1e-4, rtol=0)
    again, (truth, _) = codec.decode(latents), codec.vae.decode(whole)
    assert again.shape == frames.shape
    assert again.dtype == np.uint8
    assert np.abs(again.astype(int) - truth[0].numpy()).max() <= 1
    for wrong, message in (
        (frames / 255, r"uint8 \[T, H, W, 3\] with values 0 to 255, not float64 \[140, 4, 4, 3\] with values 0 to 1"),
        (frames[0], r"not uint8 \[4, 4, 3\]"),
        (frames[:3], "3 frames are not a multiple of the group of 2: give 2 or 4"),
        (frames[:0], "0 frames are not a multiple of the group of 2: give 2"),
        (frames[:, :3], "3 x 4 are not divisible by the space compression 2"),
    ):
        with pytest.raises(ValueError, match=message):
            codec.encode(wrong)
    with pytest.raises(ValueError, match="latents must be"):
        codec.decode(latents[:, :2])


def test_the_adversary_is_paired_and_cannot_take_over() -> None:
    torch.manual_seed(0)
    judge = PairedDiscriminator(4)
    x = torch.rand(1, 4, 3, 16, 16) * 2 - 1
    blurred = torch.nn.functional.avg_pool2d(x.flatten(0, 1), 3, 1, 1).view_as(x)
    optimizer = torch.optim.Adam(judge.parameters(), lr=3e-3)
    assert float(discriminator_loss(judge(x, x), judge(x, x)).detach()) >= np.log(2) - 1e-6  # nothing to tell them by
    for _ in range(40):
        loss = discriminator_loss(judge(x, blurred), judge(blurred, x))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.3
    with torch.no_grad():
        right, swapped = judge(x, blurred), judge(blurred, x)
        assert right.frames.mean() > 0 > swapped.frames.mean()
        assert right.clips.mean() > 0 > swapped.clips.mean()
        assert adversarial_loss(right, swapped) > 1 > discriminator_loss(right, swapped)

    found = blurred.clone().requires_grad_()
    for error in (1e-3, 1.0, 1e3):  # however small the other losses, the adversary pulls as hard as they do
        wanted = error * (found - x).square().mean()
        fooled = adversarial_loss(judge(x, found), judge(found, x))
        pull = share_of_pull(wanted, fooled, found) * fooled
        norms = [torch.autograd.grad(term, found, retain_graph=True)[0].norm() for term in (wanted, pull)]
        torch.testing.assert_close(norms[1], norms[0])
    assert share_of_pull(1e9 * found.sum(), 1e-9 * found.sum(), found) == pytest.approx(1e4)


def save_vgg(path: Path, channels: tuple[int, ...] = (3, 4, 4, 6), indices: tuple[int, ...] = (0, 2, 5)) -> None:
    g, tensors = torch.Generator().manual_seed(0), {}
    for index, c_in, c_out in zip(indices, channels, channels[1:], strict=False):
        tensors[f"features.{index}.weight"] = torch.randn(c_out, c_in, 3, 3, generator=g)
        tensors[f"features.{index}.bias"] = torch.zeros(c_out)
    save_tensors(path, tensors)


def test_the_perceptual_loss_reads_its_network_off_the_file(tmp_path: Path) -> None:
    save_vgg(tmp_path / "vgg.safetensors")
    perceptual = Perceptual(tmp_path / "vgg.safetensors")
    assert [sum(isinstance(layer, torch.nn.Conv2d) for layer in stage) for stage in perceptual.stages] == [2, 1]
    assert isinstance(perceptual.stages[1][0], torch.nn.MaxPool2d)
    x = torch.rand(1, 2, 3, 8, 8) * 2 - 1
    noisy = (x + 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))).requires_grad_()
    assert perceptual(x, x) == 0
    near, far = perceptual(x, x + 0.1 * (noisy - x)), perceptual(x, noisy)
    assert 0 < near < far
    far.backward()
    assert noisy.grad.abs().amax((0, 1, 2)).min() > 0
    for name, wrong in (("empty", {"indices": ()}), ("grey", {"channels": (1, 4)})):
        save_vgg(tmp_path / name, **wrong)
        with pytest.raises(UserError, match="does not hold the features of a VGG network"):
            Perceptual(tmp_path / name)
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        Perceptual(tmp_path / "missing")


@pytest.mark.parametrize(
    "config",
    [VaeConfig((4, 1), (4, 2), (8, 12), 1, 3, 4), VaeConfig((2, 2, 1), (2, 2, 2), (4, 6, 4), 2, 3, 4),
     VaeConfig((1, 2), (2, 1), (4, 6), 1, 5, 4)],
)  # fmt: skip
@torch.no_grad()
def test_a_step_at_a_time_encoder_and_decoder_give_the_same_numbers(config: VaeConfig) -> None:
    """For videos of different ages side by side: one begins anew where the others are at their third group."""
    torch.manual_seed(0)
    vae, c, size = Vae(config).double().eval(), config.group, 32 // config.space
    for parameter in vae.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x = 2 * torch.rand(2, 4 * c, 3, 32, 32, dtype=torch.float64) - 1
    z, _, _ = vae.encoder(x)
    pixels, _, _ = vae.decoder(z, z.new_zeros(2))
    for form, whole, parts in (
        (EncoderForm(vae.encoder), z.unbind(1), x.unflatten(1, (4, c)).unbind(1)),
        (DecoderForm(vae.decoder), pixels.unflatten(1, (4, c)).unbind(1), z.unbind(1)),
    ):
        state = form.begin(2, size, size)
        for wanted, part in zip(whole[:2], parts[:2], strict=True):
            state, made = form(state, part)
            torch.testing.assert_close(made, wanted, atol=1e-9, rtol=1e-9)
        state = state.replace_rows([0], form.begin(1, size, size))
        _, made = form(state, torch.stack([parts[0][0], parts[2][1]]))
        torch.testing.assert_close(made, torch.stack([whole[0][0], whole[2][1]]), atol=1e-9, rtol=1e-9)
        _, again = form(state.select([1, 1]), parts[2][[1, 1]])
        assert torch.equal(again[0], again[1])


def test_what_is_encoded_at_once_fits_and_the_default_is_as_it_was() -> None:
    assert side_by_side(64, 64, 4) == (8, 32)
    assert side_by_side(256, 256, 4) == (1, 16)
    assert side_by_side(8192, 8192, 4) == (1, 1)
    assert side_by_side(8, 8, 1) == (8, 32)
