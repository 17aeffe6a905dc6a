"""One reader for each layout of a data set, and `layouts`, which recognises them.

Each is a `Source` (see `recordings.files.recording`): add one and name it in `recordings.sources`.
"""
