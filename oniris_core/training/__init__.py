"""How networks are trained: `fit` is the loop, `vae` and `world` say what a step is.

The two trainers do not know each other.
"""
