"""What knows nothing of videos or models: errors, seeds, progress, signals, memory, devices, names.

Every stage uses it, so a change here reruns all. It imports nothing of the project.
"""
