"""The measures of `render`, one file each, from rollouts, probes and scores, and their figures.

Ask `evaluate.evaluate` for all of them.
"""
