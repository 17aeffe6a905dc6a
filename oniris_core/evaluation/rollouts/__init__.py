"""What asks model and simulator: which episodes, the model's continuations of them, replays with noise redrawn.

Ask for frames; what they are worth is measured elsewhere.
"""
