"""Contractions in blocks, within a limit on memory.

==================  ==================================================================================
file                holds
==================  ==================================================================================
``schedule.py``     a contraction as a program of loops over blocks of labels: data
``tree.py``         a contraction tree with cuts, and the schedule that it comes to
``adjoint.py``      the schedule of gradients, derived from that of the contraction
``gradients.py``    what one line of it does: gradients passed on from a contraction to its operands
``liveness.py``     which lines are needed, and where buffers are freed
``loads.py``        where blocks of what lies elsewhere are loaded and stored
``into.py``         one contraction written into a part of a buffer
``memory.py``       what a schedule takes, and where its buffers lie
``search.py``       which path with which loops stays within a limit, and is fastest
``run.py``          running a schedule
``plain.py``        every label once in an operand, nothing that broadcasts
``contraction.py``  from tensors and a limit to the result, and to gradients
==================  ==================================================================================
"""

from .contraction import contract_within, is_sliceable

__all__ = ["contract_within", "is_sliceable"]
