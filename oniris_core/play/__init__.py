"""The world model played in a browser, beside the true simulator. Importing this imports nothing else.

Ask `opening` to serve; `web` speaks with the page, the other modules know no network.
"""
