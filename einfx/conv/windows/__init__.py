"""What tensors go through where patterns are: windows, sums of them, zeros around them.

=====================  ==========================================================================
file                   holds
=====================  ==========================================================================
``copies.py``          windows in one copy, and their adjoint
``sums.py``            windows summed over all their positions, never built
``pooling.py``         averages over windows side by side, as sums of slices
``second_moment.py``   a tensor contracted with itself
``margins.py``         zeros added on either side of a dimension, or elements cut from there
=====================  ==========================================================================
"""
