"""In which order a contraction with patterns is computed: plans, and plans within a memory limit.

===============  ==========================================================================
file             holds
===============  ==========================================================================
``plan.py``      a plan: steps, and what they are predicted to cost
``search.py``    the search for a tree of steps
``values.py``    what operands come to along a tree, and what that costs
``meetings.py``  which patterns go along with which tensors
``limits.py``    the search for blocks that keep within a memory limit
``blocks.py``    one of these blocks, itself a contraction with patterns
``cut_plan.py``  a plan that goes block by block
===============  ==========================================================================
"""

from .plan import ConvPlan
from .search import plan_network

__all__ = ["ConvPlan", "plan_network"]
