"""Contractions in blocks, within a limit on memory.

Every package has a table of its files; each imports from those above it alone.

==============  ============================================================================================
package         holds
==============  ============================================================================================
``schedules/``  what is computed: programs of loops over blocks of labels, and of their gradients
``running/``    what their lines take, where their buffers lie, and running them
``search/``     which path with which loops stays within a limit, and is fastest
``plans/``      what was found, to print, keep, run and derive from
``autograd/``   tensors in, tensors out: under autograd, torch.func and torch.compile; streamed; stripped
==============  ============================================================================================
"""

from .autograd.within import contract_within
from .plans.contraction import is_sliceable
from .plans.making import examples_like, letters_of, plan_of_slices, plan_within
from .plans.plan import SlicedPlan
from .schedules.derivatives import is_linear

__all__ = [
    "SlicedPlan",
    "contract_within",
    "examples_like",
    "is_linear",
    "is_sliceable",
    "letters_of",
    "plan_of_slices",
    "plan_within",
]
