"""Environments and those who play them: screens, actions as numbers, heuristics, saved policies, an episode, a replay.

Shared by `collect`, which plays episodes, and by the true simulator of `render` and of the page.
"""
