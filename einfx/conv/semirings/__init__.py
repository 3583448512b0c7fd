"""Contractions with patterns over other semirings: morphology, Viterbi filters, log convolutions.

==================  ==========================================================================
file                holds
==================  ==========================================================================
``contraction.py``  from operands to the result, by an einsum of tensors alone
``calls.py``        from a call to the problem that it poses
``problem.py``      a contraction on its way to one of tensors
``boxes.py``        parts of patterns in which every position is a one
``joins.py``        the ones of patterns that meet, as lists of positions
``margins.py``      zeros and ones of a semiring as tensors
``assembly.py``     results of parts, put together
==================  ==========================================================================
"""
