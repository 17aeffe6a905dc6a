"""The episode store: written and opened, its rows, the groups of frames that one latent frame stands for, clips of frames.

Ask `store` for a store, `groups` for which rows belong together, `clips` for what the VAE is trained on.
"""
