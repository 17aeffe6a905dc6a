"""Learning rates as functions of the step and of the share of the training that is done: resuming needs no state."""

import math


def warmup(step: int, steps: int) -> float:
    """Linear rise to 1 over the first `steps` steps."""
    return min((step + 1) / steps, 1.0)


def cosine(share: float, final: float) -> float:
    """From 1 at the start down to `final` at the end along half a cosine; `share` of the training is done."""
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


def cooldown(share: float, last: float) -> float:
    """1, then over the last share `last` of the training linearly down to 0; `share` of it is done."""
    return min((1 - share) / last, 1.0) if last else 1.0


def inverse_sqrt(step: int, reference: int) -> float:
    """1 up to step `reference`, then 1 / sqrt(step / reference) (arXiv 2312.02696, eq. 67)."""
    return 1 / math.sqrt(max(step / reference, 1.0))
