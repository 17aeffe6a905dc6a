"""The latent store: written with its statistics, opened, standardised, and cut into clips.

Ask `store` for a store and `clips` for what the world model is trained on.
"""
