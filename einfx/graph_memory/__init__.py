"""What a graph takes, and how it takes less.

========================  ==================================================================================
file                      holds
========================  ==================================================================================
``liveness.py``           what is alive in a graph while each node runs
``workspace.py``          what operations of torch allocate inside
``contraction_bytes.py``  what a contraction takes by itself: as it is, and in blocks
``bounds.py``             what it takes at its node in a graph, and the limit that is left for it
``reordering.py``         the order of nodes in which least is alive at a time
``elementwise.py``        elementwise operations in every spelling, as they write over an operand
``in_place.py``           what programs call that write over operands
``overwriting.py``        which operations may write over an operand, and which don't, with the reason
``blockwise.py``          parts of a graph that are computed some rows at a time
``giving_back.py``        programs that give free memory back where it could add up beside a limit
``report.py``             what a program takes within its limit, and where
========================  ==================================================================================
"""
