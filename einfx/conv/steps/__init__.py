"""One step of a contraction with patterns: every way to compute it, and what each is predicted to cost.

=================  ==========================================================================
file               holds
=================  ==========================================================================
``step.py``        a step of a plan, and its ways, the best first
``lowering.py``    which native convolution a step is, if it is one
``builder.py``     a step as operations on windows, pattern by pattern, with ``tape.py`` for what is
                   written down, ``remainder.py`` for what is left without patterns, ``moments.py``
                   for tensors that meet themselves and ``folding.py`` for windows that are added
``program.py``     these operations in a row, which run on tensors
``operations.py``  each of them
``cost.py``        what native convolutions and operations are predicted to cost
=================  ==========================================================================
"""
