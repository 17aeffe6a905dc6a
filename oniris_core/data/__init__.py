"""Episodes and latents as the stages hand them on, and the environments that are played.

`rows` is what both stores are made of, `episodes` and `latents` are the two, `playing` is what moves an environment.
"""
