"""Numbers from arrays: proper scores, intervals over episodes, Frechet distance.

Nothing here knows what the arrays show.
"""
