"""A policy that is trained in dreams and judged in the true environment. Importing this imports nothing else.

Ask `ppo` to train one, `judge` what it and others earn, `report` to write that down.
"""
