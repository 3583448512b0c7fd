"""Graphs of torch.fx as einfx reads and writes them.

======================  ======================================================================================
file                    holds
======================  ======================================================================================
``writes.py``           what functions of torch and Python write, read and make, by their names
``values.py``           what is known of the value of a node: a tensor, a size, an index pattern
``nodes.py``            contractions: one reader, one writer
``spellings.py``        every way in which torch says a contraction without saying einsum
``scaling.py``          a tensor times a number, in every spelling
``regrouping.py``       whether the steps of a contraction may be taken in another order
``networks.py``         contractions with patterns as networks of ``einfx.conv``, and their predicted costs
``native_calls.py``     which native convolution a contraction is
``native_writing.py``   native convolutions as calls of torch
``emission.py``         calls written into a graph, each with its value
``meta_einsums.py``     what einsums of einfx return for tensors without data
``shapes.py``           shapes, dtypes and devices of all nodes, without running anything
``folding.py``          constants computed ahead of the call, and again when their sources change
``estimate.py``         FLOPs and peak bytes of a graph
``pickling.py``         graphs as plain data
======================  ======================================================================================

What a pass may touch is said by :mod:`einfx.legality`.
"""
