"""What lines of a schedule take, and running them.

======================  ====================================================================================
file                    holds
======================  ====================================================================================
``work.py``             what a line is, to who weighs or runs it
``tiles.py``            operations by element on large tensors that lie otherwise than one another
``matrix_views.py``     tensors as matrices that BLAS reads and writes
``parts.py``            parts of values as views that move while loops go on
``products.py``         products of matrices and of elements, prepared for where they lie
``into.py``             one contraction written into a part of a buffer
``gradients.py``        what a line of gradients does: they are passed on from a contraction to its operands
``local_gradients.py``  the same over semirings, block by block
``shares_work.py``      what that takes over logarithms, term by term
``presummed.py``        the same over logarithms, where operands are summed by themselves first
``budget.py``           what a kernel over a semiring may take for one block
``narrow.py``           what reading narrow blocks costs, in whole lines of the cache
``memory.py``           what a schedule takes, and where its buffers lie
``resident.py``         what is freed meanwhile stays within what a schedule may hold
``loops.py``            walking its loops, each of whose bodies is prepared once
``run.py``              running a schedule
``moving.py``           running its loads ahead of it, and its stores behind it
``stripped.py``         running it with every buffer beside a power of two
======================  ====================================================================================
"""
