"""Files that outlast a run: artefacts with their manifests, stores at URLs, unfinished work, weights, figures.

Ask it to open, stage or write one; what is inside is known to the rooms above.
"""
