"""What moves the weights: Muon, schedules of the learning rate, averages of the weights.

Ask for a new value at a step; nothing here looks at data.
"""
