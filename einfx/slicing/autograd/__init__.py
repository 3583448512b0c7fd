"""Contracting tensors within a limit, and differentiating that.

==========================  ================================================================================
file                        holds
==========================  ================================================================================
``problem.py``              a contraction within a limit, and what is computed of it
``within.py``               the same under autograd and torch.func
``operators.py``            the same as operators, for torch.compile
``streamed.py``             the same for operands that lie elsewhere
``stripped.py``             from tensors and a limit to a mantissa and an exponent, and to gradients
``third.py``                derivatives beyond the second
``log_directions.py``       derivatives in a direction over logarithms, and their gradients
``places.py``               where the terms that sums select come from
``argmax.py``               contractions with the indices of what their sums select
``selected_directions.py``  derivatives in a direction over semirings that select
``one_gradient.py``         the gradient of one operand as a contraction of the others
==========================  ================================================================================
"""
