"""Layers that the world model and its training share: magnitude-preserving ones and rotary positions.

They know neither noise nor time.
"""
