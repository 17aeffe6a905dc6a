"""The library: `vae`, `world` and `sampling` are what a notebook asks for, the other rooms serve stages and the page.

Floors import downward only (pyproject.toml has them). A package is a room: its docstring says what lives there.
"""
