"""The page and what speaks with it: the server, its connections, and what may be said.

Ask `server` to listen; what a player's wishes do is in `play.player`.
"""
