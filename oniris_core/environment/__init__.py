"""The world model as an environment, for whatever plays Gymnasium's vector environments.

Importing this registers `Oniris/World-v0` (the model) and `Oniris/True-v0` (the simulator it was recorded from) and imports
nothing else of Oniris; Gymnasium itself has no way of finding them without.
"""

from gymnasium import register

register(
    "Oniris/World-v0",
    entry_point="oniris_core.environment.single:WorldEnv",
    vector_entry_point="oniris_core.environment.dreams:WorldVectorEnv",
)
register(
    "Oniris/True-v0",
    entry_point="oniris_core.environment.single:TrueEnv",
    vector_entry_point="oniris_core.environment.truth:TrueVectorEnv",
)
