"""The loop that both trainers share: steps, checkpoints, guards, the session around it, and the parameters of all that.

Ask `loop.fit` to train a `trainer.Trainer`; `machine`, `optimiser` and `watch` are its parts.
"""
