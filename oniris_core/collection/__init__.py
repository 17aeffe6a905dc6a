"""What only `collect` does: play many episodes with many workers, and (in `recordings`) read those of others.

Ask it for episodes, one after the other; a killed collection goes on where it stopped.
"""
