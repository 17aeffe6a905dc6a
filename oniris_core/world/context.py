"""The three ways to run the same weights, and what is remembered between steps. Axes: see `oniris_core.common.axes`.

Information crosses frames in two modules only, `GatedCausalConv` and `Attention`, and only as the context says:

    clean_i   reads clean_1 .. clean_i
    noised_i  reads clean_1 .. clean_{i-1} and itself
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor, nn


@dataclass(frozen=True)
class ConvCache:
    """The last two clean activations a gated convolution read: frames [B, 0..2, C, H, W].

    What it makes of them for the frame that follows is the same at every noise level of that frame: the first step that
    asks `for_next` works it out, the others find it here.
    """

    frames: Tensor
    _worked_out: list[Tensor] = field(default_factory=list, repr=False, compare=False)

    def for_next(self, work_out: Callable[[], Tensor]) -> Tensor:
        """What `work_out` returned when it was first asked for here; it must be the same for all who ask."""
        if not self._worked_out:
            self._worked_out.append(work_out())
        return self._worked_out[0]


@dataclass(frozen=True)
class AttentionCache:
    """Keys and values in a ring of W + 1 slots, for a window of W frames.

    The i-th frame that enters lies in slot i mod (W + 1). Once the ring is full a frame attends to all of it, its past and
    itself, in whatever order they lie (keys are rotated already): nothing is moved, copied or masked.

    Attributes:
        keys, values: [B, N, W + 1, P, D] each, written in place; whoever shares them is told apart by `Ring`.
        length: how many frames have entered.
    """

    keys: Tensor
    values: Tensor
    length: int


@dataclass(frozen=True)
class BlockCache:
    """What one block remembers."""

    conv: ConvCache | None = None
    attention: AttentionCache | None = None


class Ring:
    """Which step wrote each slot last, for the keys and values that the caches of one rollout share."""

    def __init__(self, slots: int):
        self.writers, self._steps = [0] * slots, 0

    def write(self, first: int, count: int) -> int:
        """Note that a step writes frames first .. first + count - 1; returns the step's number, never given twice."""
        self._steps += 1
        for frame in range(first, first + count):
            self.writers[frame % len(self.writers)] = self._steps
        return self._steps


@dataclass(frozen=True)
class Cache:
    """What a denoiser remembers of the past. A step returns a new one; the old one keeps its meaning or is refused.

    Caches of one rollout share a ring of keys and values. A step of one frame overwrites a slot that the cache it starts
    from no longer reads, so any number of such steps may start from the same cache (the solver does it) and the last one
    may be kept. A cache that has lost a frame of its window to another step is stale, and using it raises ValueError:
    what must outlive others is copied first, by `select` or `repeat`.

    Attributes:
        start: number of the first frame; above 0 where a longer rollout is taken up again.
        length: how many frames went in.
        model: the denoiser that made it, None before the first frame.
        clean: the last clean frames [B, 1..K, C, H, W], as many as are expected from; None before the first.
        clean_sigma: the noise levels they were declared to have [B, 1..K], None before the first.
        told: what the model was told of the actions that led to them [B, 1..K, A], None before the first.
        blocks: one entry per block of the network; empty before the first frame.
        ring: who wrote its keys and values, None before the first frame.
        writers: the steps that wrote the frames of its window, oldest first.
    """

    start: int = 0
    length: int = 0
    model: nn.Module | None = None
    clean: Tensor | None = None
    clean_sigma: Tensor | None = None
    told: Tensor | None = None
    blocks: tuple[BlockCache, ...] = ()
    ring: Ring | None = None
    writers: tuple[int, ...] = ()

    @property
    def position(self) -> int:
        """The number of the next frame."""
        return self.start + self.length

    def refuse_stale(self) -> None:
        """Raise ValueError if any frame of the window has been overwritten."""
        if self.ring is None:
            return
        held = self.ring.writers
        for age, step in enumerate(reversed(self.writers), start=1):
            if held[(self.length - age) % len(held)] != step:
                raise ValueError(
                    f"this cache of {self.length} frames is stale: a later step has overwritten frame "
                    f"{self.length - age} of its window of {len(held) - 1}; copy it first, with repeat(1), to keep it"
                )

    def select(self, rows: Sequence[int]) -> "Cache":
        """A cache of the rollouts `rows`, in that order, any of them once, often or never; it shares nothing with this one.

        Raises:
            ValueError: this cache is empty or stale, or has no such row.
        """
        self.refuse_stale()
        count = 0 if self.clean is None else len(self.clean)
        if not rows or not all(0 <= row < count for row in rows):
            raise ValueError(f"a cache of {count} rollouts has no rows {list(rows)}")
        index = list(rows)
        return replace(
            self,
            clean=None if self.clean is None else self.clean[index],
            clean_sigma=None if self.clean_sigma is None else self.clean_sigma[index],
            told=None if self.told is None else self.told[index],
            blocks=tuple(_select(block, index) for block in self.blocks),
            ring=copy.deepcopy(self.ring),
        )

    def repeat(self, k: int) -> "Cache":
        """A copy in which each rollout b stands k times, as rows b * k .. b * k + k - 1, to be continued in k ways.

        Raises:
            ValueError: as `select`, or k is below 1.
        """
        return self.select([row for row in range(0 if self.clean is None else len(self.clean)) for _ in range(k)])


def _select(block: BlockCache, rows: list[int]) -> BlockCache:
    conv, attention = block.conv, block.attention
    return BlockCache(
        conv and ConvCache(conv.frames[rows]),
        attention and AttentionCache(attention.keys[rows], attention.values[rows], attention.length),
    )


@dataclass(frozen=True)
class Before:
    """Clean frames before a clip: x [B, F, C, H, W], sigma [B, F], actions [B, F, A] and has_action [B, F]."""

    x: Tensor
    sigma: Tensor
    actions: Tensor
    has_action: Tensor


@dataclass(frozen=True)
class Parallel:
    """Clean and noised streams of a whole clip: S = 2, stream 0 clean and stream 1 noised.

    The network knows no past of the clip; what is expected of its first frames may rest on those `before` it.
    """

    before: Before | None = None


@dataclass(frozen=True)
class Step:
    """New frames that follow the cache, each reading the cache, the new frames before it and itself: S = 1.

    Any number of frames, also more than the window: each reads the last W frames before it. For inference: a step
    computes no gradients.
    """

    cache: Cache = Cache()


@dataclass(frozen=True)
class FrameOnly:
    """Every frame by itself, the temporal paths skipped: S = 1. The weak model of guidance."""


Context = Parallel | Step | FrameOnly
