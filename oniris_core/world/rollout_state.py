"""What the generation form remembers and prepares: tensors only, in and out, nothing changed in place.

Axes: B rollouts side by side, C channels, H, W; N heads, P pixels, D channels of a head, V slots of the window; A features of
an action as the network is told it (`GenerationForm.tell`).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class RolloutState(NamedTuple):
    """A batch of rollouts between two latent frames. Rows know nothing of each other and may be of any age.

    A state is never changed: keep one, and the rollout can go on from there again (rewind, branch).

    Attributes:
        position: int64 [B], frames that have entered, so the number of the next one.
        clean: [B, F, C, H, W], the last frames, newest last; before the first one, which is given, copies of it.
        clean_sigma: [B], the noise level that the newest is declared to have.
        told: [B, F - 2, A] (at least one), what the network was told of the actions that led to the last frames, newest last.
        convs: of each block [B, 2, C, H, W], what its gated convolution read of the last two frames, older first.
        keys: of each block that attends to the past [B, N, D, V * P]: frame i lies in slot i mod V, rotated already.
        values: of the same [B, N, D + 1, V * P]; the last channel is 1 in a slot that holds a frame, so that the sum of an
            attention's weights is computed with its values, and empty slots count for nothing.
    """

    position: Tensor
    clean: Tensor
    clean_sigma: Tensor
    told: Tensor
    convs: tuple[Tensor, ...]
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    def map(self, change: Callable[[Tensor], Tensor]) -> "RolloutState":
        """The state of which each tensor has been changed."""
        return RolloutState(
            change(self.position), change(self.clean), change(self.clean_sigma), change(self.told),
            tuple(map(change, self.convs)), tuple(map(change, self.keys)), tuple(map(change, self.values)),
        )  # fmt: skip

    def select(self, rows: Sequence[int]) -> "RolloutState":
        """The rollouts `rows`, in that order, any of them once, often or never. Raises ValueError if there is no such row."""
        count = len(self.position)
        if not rows or not all(0 <= row < count for row in rows):
            raise ValueError(f"a state of {count} rollouts has no rows {list(rows)}")
        index = torch.tensor(list(rows), device=self.position.device)
        return self.map(lambda part: part[index])

    def repeat(self, k: int) -> "RolloutState":
        """Each rollout b stands k times, as rows b * k .. b * k + k - 1, to be continued in k ways."""
        return self.select([row for row in range(len(self.position)) for _ in range(k)])

    def beside(self, others: "Sequence[RolloutState]") -> "RolloutState":
        """These rollouts, and after them those of others of the same model and window."""
        rest = [iter(tensors(other)) for other in others]
        return self.map(lambda part: torch.cat([part, *map(next, rest)]))

    def replace_rows(self, rows: Sequence[int], fresh: "RolloutState") -> "RolloutState":
        """The same with the rollouts of `fresh`, in order, in the places `rows`; the others stay as they are, to the bit.

        Raises:
            ValueError: no such rows, another number of them than of fresh rollouts, or a state of another model.
        """
        count = len(self.position)
        if len(set(rows)) != len(fresh.position) or not all(0 <= row < count for row in rows):
            raise ValueError(
                f"{len(fresh.position)} fresh rollouts do not fit rows {list(rows)} of a state of {count} rollouts"
            )
        if shapes(self) != shapes(fresh):
            raise ValueError("fresh rollouts of another model do not fit this state")
        index = torch.tensor(list(rows), device=self.position.device)
        others = iter(tensors(fresh))
        return self.map(lambda part: part.index_copy(0, index, next(others)))


class Ahead(NamedTuple):
    """All that is known of the next frame before it is looked at, the same at every noise level.

    Attributes:
        center: m [B, C, H, W], where it is expected.
        spread: standard deviation of what each value may differ by.
        stem: [B, C, H, W], what the network's first convolution makes of these.
        action: [B, E], the embedding of the action.
        gate: [B, blocks], what the gates' positions and constants add up to.
        has_past: [B, 1], 0 at the first frame of a rollout, else 1.
        past: of each block, what its gated convolution makes of the two frames before.
        angles: cosine and sine [B, 2, 1, D / 2, 1] for queries (scaled by 1 / sqrt(D)) and keys, or nothing.
    """

    center: Tensor
    spread: Tensor
    stem: Tensor
    action: Tensor
    gate: Tensor
    has_past: Tensor
    past: tuple[Tensor, ...]
    angles: tuple[Tensor, ...]


def tensors(state: RolloutState) -> list[Tensor]:
    """All tensors of a state, in order."""
    return [tensor for part in state for tensor in (part if isinstance(part, tuple) else (part,))]


def shapes(state: RolloutState) -> list[tuple[int, ...]]:
    """What makes two states fit each other: the shapes of their tensors without the batch."""
    return [tuple(tensor.shape[1:]) for tensor in tensors(state)]
