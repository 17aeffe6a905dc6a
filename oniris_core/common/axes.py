"""Names of axes, used as suffixes wherever the meaning of a tensor's axes matters (`k_BTND`).

B batch    T frames in time    C channels    H height    W width
S streams (0 clean, 1 noised)  N heads       D channels of a head
P pixels of a frame, flattened      A features of an action      E features of an embedding
"""
