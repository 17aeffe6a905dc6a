"""Pictures on the side, of a training as it goes and of recordings before they are read.

Stages load these by name: what they draw decides nothing, so a change here reruns nothing.
"""
