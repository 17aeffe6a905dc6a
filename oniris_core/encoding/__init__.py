"""What only `encode` needs: its parameters and its report on the latents.

The encoder is in `vae`, the store it fills in `data.latents`.
"""
