"""The training of the VAE: its parameters, and what a step is.

The networks and losses are in `vae`.
"""
