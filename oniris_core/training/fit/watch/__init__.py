"""What is seen of a training: curves as they come, a picture, the seconds of a step, the report at the end.

Nothing here changes what is trained.
"""
