"""What makes a step run where it runs: processes, compiled blocks, CUDA graphs, data on the device, memory foreseen.

Nothing here changes what is computed, but for rounding.
"""
