"""What reads states and actions off frames: formulas for environments (`states`) and small trained networks.

Ask with true or generated frames alike; no model is run here.
"""
