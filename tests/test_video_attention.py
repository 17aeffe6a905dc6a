"""The forms of video attention against one dense mask, as functions: what `tests/test_world.py` does for whole networks."""

import warnings
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st

from oniris_core.world import video_attention
from oniris_core.world.denoiser import Frames
from oniris_core.world.video_attention import attend_parallel, block_mask, block_sparse, dense_pieces
from tests.reference import visible
from tests.test_world import data, make

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def qkv(B, T, N, P, D, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(3, B, 2, T, N, P, D, generator=g)


def masked(q, k, v, window):
    """Every query against every key, with the mask written out."""
    S, T, _, P = q.shape[1:5]
    mask = visible(T, window).repeat_interleave(P, 0).repeat_interleave(P, 1).to(q.device)
    q, k, v = (rearrange(z, "b s t n p d -> b n (s t p) d") for z in (q, k, v))
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return rearrange(y, "b n (s t p) d -> b s t n p d", s=S, t=T)


def uncompiled(q, k, v, window):
    with warnings.catch_warnings():  # that it is slow uncompiled is known
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
        return block_sparse(q, k, v, window)


@settings(max_examples=20, deadline=None)
@given(T=st.integers(1, 9), P=st.sampled_from([1, 4, 16, 36]), D=st.sampled_from([4, 16, 32]), window=st.integers(1, 9))
def test_both_forms_are_the_dense_mask(T, P, D, window):
    q, k, v = qkv(2, T, 3, P, D)
    expected = masked(q, k, v, window)
    torch.testing.assert_close(dense_pieces(q, k, v, window), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(uncompiled(q, k, v, window), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("window", [2, 6])
def test_gradients_of_the_pieces_are_those_of_the_dense_mask(window):
    inputs = [z.requires_grad_() for z in qkv(1, 7, 2, 4, 8)]
    weight = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1))
    for ours, theirs in zip(
        *(torch.autograd.grad((attend(*inputs, window) * weight).sum(), inputs) for attend in (dense_pieces, masked)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_whole_network_gives_the_same_numbers_in_both_forms():
    denoiser, batch = make(window=2), data()
    pieces = denoiser(*batch)
    with patch("oniris_core.world.temporal.attend_parallel", side_effect=uncompiled) as attend:
        blocks = denoiser(*batch)
    assert attend.called
    torch.testing.assert_close(blocks, pieces, atol=1e-4, rtol=0)


def test_empty_blocks_are_left_out_and_masks_are_made_once():
    mask = block_mask(8, 128, 3, torch.device("cpu"))  # a frame is one block of 128
    assert block_mask(8, 128, 3, torch.device("cpu")) is mask
    assert torch.equal(mask.to_dense()[0, 0].bool(), visible(8, 3))


def test_cpu_tensors_take_the_pieces():
    with patch.object(video_attention, "dense_pieces", side_effect=dense_pieces) as pieces:
        attend_parallel(*qkv(1, 2, 1, 4, 8), 2)
    assert pieces.called


@needs_gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize(("T", "P", "D", "window"), [(8, 64, 32, 64), (5, 128, 64, 2), (3, 36, 8, 1)])
def test_compiled_on_a_gpu_it_is_the_dense_mask_forward_and_backward(dtype, tolerance, T, P, D, window):
    exact = [z.requires_grad_() for z in qkv(2, T, 3, P, D).cuda()]
    inputs = [z.detach().to(dtype).requires_grad_() for z in exact]
    weight = torch.randn(exact[0].shape, generator=torch.Generator().manual_seed(1)).cuda()
    expected, found = masked(*exact, window), attend_parallel(*inputs, window)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, atol=tolerance, rtol=tolerance)
    for ours, theirs in zip(
        torch.autograd.grad((found.float() * weight).sum(), inputs),
        torch.autograd.grad((expected * weight).sum(), exact),
        strict=True,
    ):
        torch.testing.assert_close(ours.float(), theirs, atol=5 * tolerance, rtol=5 * tolerance)


@needs_gpu
def test_a_whole_network_gives_the_same_numbers_and_gradients_on_a_gpu():
    results = []
    for device in ("cpu", "cuda"):
        denoiser = make(window=2).to(device)
        clean, x, sigma = data()
        clean = Frames(*(part.to(device) for part in (clean.x, clean.sigma, clean.actions, clean.has_action)))
        y = denoiser(clean, x.to(device), sigma.to(device))
        y.square().mean().backward()
        gradients = [p.grad.cpu() for p in denoiser.parameters() if p.grad is not None]
        results.append((y.detach().cpu(), *gradients))
    for cpu, gpu in zip(*results, strict=True):
        torch.testing.assert_close(gpu, cpu, atol=1e-3, rtol=1e-3)
