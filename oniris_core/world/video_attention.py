"""Attention over the frames of whole clips in two exact forms (docs/design.md, sections 1 and 4): dense pieces, block-sparse.

    clean_i   reads the last `window` clean frames before it and itself
    noised_i  reads the same clean frames and itself

Axes: B batch, S streams, T frames, N heads, P pixels, D channels of a head. Queries and keys are rotated already.
"""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

FEWEST_CHANNELS = 16  # of a head in the compiled kernel of FlexAttention


def attend_parallel(q_BSTNPD: Tensor, k_BSTNPD: Tensor, v_BSTNPD: Tensor, window: int) -> Tensor:
    """Both streams of a clip without a past, in the form that fits the device; returns q's shape."""
    attend = block_sparse if q_BSTNPD.is_cuda else dense_pieces
    return attend(q_BSTNPD, k_BSTNPD, v_BSTNPD, window)


def dense_pieces(q_BSTNPD: Tensor, k_BSTNPD: Tensor, v_BSTNPD: Tensor, window: int) -> Tensor:
    """Cut into pieces that are dense by construction: nothing is spent on masked blocks."""
    if window >= q_BSTNPD.shape[2] - 1:  # every frame reads all that came before it
        return _halves(q_BSTNPD, k_BSTNPD, v_BSTNPD)
    return _frame_by_frame(q_BSTNPD, k_BSTNPD, v_BSTNPD, window)


def _halves(q_BSTNPD: Tensor, k_BSTNPD: Tensor, v_BSTNPD: Tensor) -> Tensor:
    """Few large pieces: blocks of 2, 4, 8, ... frames, of each of which the second half reads the whole first half.

    Together with its own frame that is every frame before it exactly once. What the pieces give is added before it is
    divided by the sum of all weights. No maximum need be subtracted from the scores: normalised queries and keys keep
    them within sqrt(D).
    """
    T, D = q_BSTNPD.shape[2], q_BSTNPD.shape[-1]
    q_BSTNPD = q_BSTNPD * D**-0.5
    own = (q_BSTNPD @ k_BSTNPD.transpose(-1, -2)).exp()
    values, weights = own @ v_BSTNPD, own.sum(-1, keepdim=True)
    half = 1
    while half < T:
        whole = T // (2 * half) * 2 * half  # frames in whole blocks; a last incomplete one may have a second half too
        for block, count in ((slice(0, whole), whole // (2 * half)), (slice(whole, T), 1)):
            if block.stop - block.start <= half:
                continue
            length = (block.stop - block.start) // count
            q = rearrange(q_BSTNPD[:, :, block], "b s (m t) n p d -> b m n t s p d", m=count)[:, :, :, half:]
            k, v = (
                rearrange(z[:, 0, block], "b (m t) n p d -> b m n t p d", m=count)[:, :, :, :half].flatten(3, 4)
                for z in (k_BSTNPD, v_BSTNPD)
            )
            piece = (q.flatten(3, 5) @ k.transpose(-1, -2)).exp()
            found = [(values, piece @ v), (weights, piece.sum(-1, keepdim=True))]
            for total, part in found:
                part = part.unflatten(3, q.shape[3:6])  # [B, m, N, t, S, P, D or 1]
                second = total[:, :, block].unflatten(2, (count, length))[:, :, :, half:]
                second += rearrange(part, "b m n t s p d -> b s m t n p d")
        half *= 2
    return values / weights


def _frame_by_frame(q_BSTNPD: Tensor, k_BSTNPD: Tensor, v_BSTNPD: Tensor, window: int) -> Tensor:
    """One piece for each frame."""
    B, S, T = q_BSTNPD.shape[:3]
    outputs = []
    for t in range(T):
        past = slice(max(t - window, 0), t)
        k, v = (
            torch.cat([
                rearrange(z[:, 0, past], "b f n p d -> b 1 n (f p) d").expand(B, S, -1, -1, -1), z[:, :, t]
            ], dim=3)
            for z in (k_BSTNPD, v_BSTNPD)
        )  # fmt: skip
        outputs.append(
            F.scaled_dot_product_attention(q_BSTNPD[:, :, t].flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1))
        )
    return torch.stack(outputs, dim=1).unflatten(0, (B, S))


def block_sparse(q_BSTNPD: Tensor, k_BSTNPD: Tensor, v_BSTNPD: Tensor, window: int) -> Tensor:
    """FlexAttention over the sequence (stream, frame, pixel); blocks that the mask leaves empty are not computed.

    Compiled where tensors are on CUDA. Elsewhere it runs as written, without gradients (torch has none for it there).
    """
    S, T, _, P, D = q_BSTNPD.shape[1:]
    # Within a network that is compiled as a whole it is a part of that.
    attend: Any = _compiled() if q_BSTNPD.is_cuda and not torch.compiler.is_compiling() else flex_attention
    q, k, v = (z.permute(0, 3, 1, 2, 4, 5).flatten(2, 4) for z in (q_BSTNPD, k_BSTNPD, v_BSTNPD))  # [B, N, (S T P), D]
    if D < FEWEST_CHANNELS:  # channels of zeros change no product, if the scale stays that of D
        q, k, v = (F.pad(z, (0, FEWEST_CHANNELS - D)) for z in (q, k, v))
    y = attend(q, k, v, block_mask=block_mask(T, P, window, q.device), scale=D**-0.5)
    return y[..., :D].unflatten(2, (S, T, P)).permute(0, 2, 3, 1, 4, 5)  # [B, S, T, N, P, D]


@functools.cache
def _compiled() -> Any:
    return torch.compile(flex_attention)


_MASKS = dict[tuple[int, int, int, str], BlockMask]()


def block_mask(frames: int, pixels: int, window: int, device: torch.device) -> BlockMask:
    """Who reads whom among the 2 * frames * pixels places of a clip, the clean stream first. Made once and kept.

    What is to be compiled finds it made (`Denoiser.make_masks`): the compiler can look a mask up, but should not make it.
    """
    key = frames, pixels, window, str(device)
    if key not in _MASKS:
        length = 2 * frames * pixels

        def reads(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            reader, read = (
                query // pixels,
                key // pixels,
            )  # numbers of frames, those of the noised stream after the clean
            ago = reader % frames - read
            return (reader == read) | ((read < frames) & (ago > 0) & (ago <= window))

        _MASKS[key] = create_block_mask(reads, None, None, length, length, device=device)
    return _MASKS[key]
