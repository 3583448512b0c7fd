"""What is computed, as data: programs of loops over blocks of labels.

==================  ========================================================================================
file                holds
==================  ========================================================================================
``schedule.py``     the lines of such a program
``plain.py``        what it is made for: every label once in an operand, nothing that broadcasts
``tree.py``         a contraction tree with cuts, and the schedule that it comes to
``adjoint.py``      the schedule of gradients, derived from that of the contraction
``tangent.py``      the schedule of derivatives in a direction
``derivatives.py``  which derivative of a contraction is computed
``liveness.py``     which lines are needed, and where buffers are freed
``loads.py``        where blocks of what lies elsewhere are loaded and stored
``flops.py``        how many multiplications and additions a schedule takes
==================  ========================================================================================
"""
