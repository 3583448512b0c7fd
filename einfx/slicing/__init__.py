"""Contractions in blocks, within a limit on memory.

==================  ==================================================================================
file                holds
==================  ==================================================================================
``schedule.py``     a contraction as a program of loops over blocks of labels: data
``tree.py``         a contraction tree with cuts, and the schedule that it comes to
``adjoint.py``      the schedule of gradients, derived from that of the contraction
``tangent.py``      the schedule of derivatives in a direction
``derivatives.py``  which derivative of a contraction is computed
``gradients.py``    what one line of it does: gradients passed on from a contraction to its operands
``liveness.py``     which lines are needed, and where buffers are freed
``loads.py``        where blocks of what lies elsewhere are loaded and stored
``hoisting.py``     how far out loads go, where memory is left
``into.py``         one contraction written into a part of a buffer
``budget.py``       what a kernel over a semiring may take for one block
``memory.py``       what a schedule takes, and where its buffers lie
``skeleton.py``     the same for blocks of any lengths, quickly
``events.py``       what skeletons are made from, and what they tell
``moves.py``        which loops could help where the most memory is in use
``fitting.py``      which loops keep one path within a limit
``search.py``       which path with which loops stays within a limit, and is fastest
``run.py``          running a schedule
``moving.py``       running its loads ahead of it, and its stores behind it
``stripped_run.py`` the same with every buffer beside a power of two
``stripped.py``     from tensors and a limit to a mantissa and an exponent, and to gradients
``plain.py``        every label once in an operand, nothing that broadcasts
``plan.py``         all of this as a plan: data that is printed, kept as text, run, derived
``plan_parts.py``   what plans are made from
``plan_text.py``    plans as text
``plan_print.py``   plans for people
``flops.py``        how many multiplications and additions a schedule takes
``planned.py``      making plans
``jobs.py``         a plan as jobs that don't depend on one another, and how their results meet
``contraction.py``  which contractions are cut into blocks, and their schedules remembered
``problem.py``      a contraction within a limit, and what is computed of it
``within.py``       the same under autograd and torch.func
``streamed.py``     the same for operands that lie elsewhere
``operators.py``    the same as operators, for torch.compile
``third.py``        derivatives beyond the second
``one_gradient.py`` the gradient of one operand as a contraction of the others
==================  ==================================================================================
"""

from .contraction import is_sliceable
from .derivatives import is_linear
from .plan import SlicedPlan
from .planned import examples_like, letters_of, plan_of_slices, plan_within
from .within import contract_within

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
