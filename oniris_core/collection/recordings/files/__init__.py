"""Files of strangers, one kind each, read within limits; and what every reader makes of them: a `Recording` and its space.

Nothing here knows how a data set is laid out.
"""
