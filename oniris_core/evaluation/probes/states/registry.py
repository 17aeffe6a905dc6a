"""Which environments' pictures can be read. To add one: a file with a READER beside this one, and a line here."""

from oniris_core.evaluation.probes.states import cart_pole, lunar_lander
from oniris_core.evaluation.probes.states.reader import StateReader

READERS: dict[str, StateReader] = {"LunarLander": lunar_lander.READER, "CartPole": cart_pole.READER}


def reader_for(env_id: str | None) -> StateReader | None:
    """The reader of an environment, whatever its version; None where there is none, or no environment."""
    return READERS.get((env_id or "").rpartition("-v")[0])
