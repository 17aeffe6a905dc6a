"""A policy that is trained in dreams and judged in the true environment. Importing this imports nothing else."""
