"""How good it is: `fidelity` of pictures, `probes` that read them, `rollouts` made, `scores`, `measures` and the `report`.

Ask `measures.evaluate` for all figures of `render`; each room imports only those named before it, `scores` all may.
"""
