"""Two pictures compared, an object's position read off one, and what the VAE loses, with the pictures of its report.

What `train_vae` reports and `render` measures again.
"""
