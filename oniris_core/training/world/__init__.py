"""The training of the world model: its parameters, what a step is, snapshots, and what its report measures.

The network and its loss are in `world`.
"""
