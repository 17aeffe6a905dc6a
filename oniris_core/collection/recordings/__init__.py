"""Recordings of others made episodes: which reader reads them, what they must agree on, whether actions lie at their rows.

Ask `sources` to open a folder and `conversion` for its episodes.
"""
