"""What both stores have: arrays of rows in Zarr, what the actions of a row mean, which stretches of rows make clips.

It knows neither frames nor latents.
"""
