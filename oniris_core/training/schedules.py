"""Learning rates as functions of the step, so that resuming needs no state."""

import math


def warmup(step: int, steps: int) -> float:
    """Linear rise to 1 over the first `steps` steps."""
    return min((step + 1) / steps, 1.0)


def cosine(step: int, total: int, final: float) -> float:
    """From 1 at step 0 down to `final` at step `total` along half a cosine."""
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(step / total, 1.0)))


def cooldown(step: int, total: int, share: float) -> float:
    """1, then over the last `share` of all steps linearly down to 0, which only step `total` would have."""
    return min((total - step) / max(share * total, 1.0), 1.0)


def inverse_sqrt(step: int, reference: int) -> float:
    """1 up to step `reference`, then 1 / sqrt(step / reference) (arXiv 2312.02696, eq. 67)."""
    return 1 / math.sqrt(max(step / reference, 1.0))
