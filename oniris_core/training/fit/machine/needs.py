"""What a training step needs of the memory, foreseen before anything large is imported or made. Estimates are low ones."""

from oniris_core.common.devices import memory_of
from oniris_core.common.memory import refuse_batch
from oniris_core.training.fit.params import TrainingParams


def refuse_large_batch(section: str, params: TrainingParams, clip: int, device: str) -> None:
    """Raise UserError if the clips of a step do not fit.

    Args:
        section: of the parameters.
        params: how many clips, in how many parts and processes. On a CPU these share the memory; a GPU is each one's own.
        clip: bytes that one takes in float32; in bfloat16 it is at least half.
        device: `common.device`.
    """
    free, gpu = memory_of(device)
    halved = params.precision == "bfloat16" or (params.precision == "auto" and gpu)
    at_once = max(params.batch // (params.accumulate * (params.processes if gpu else 1)), 1)
    refuse_batch(clip // 2 if halved else clip, at_once, free, section, params.batch)
