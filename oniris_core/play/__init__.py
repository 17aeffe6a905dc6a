"""The world model played in a browser. Importing this imports nothing else."""
