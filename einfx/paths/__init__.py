"""Looking for contraction paths.

===================  =======================================================================================
file                 holds
===================  =======================================================================================
``walks.py``         random rotations of trees, and what a step costs in them
``walks_native.py``  the same in C (``_walks.c``)
``annealing.py``     trees of many operands, made better by such walks
``trees.py``         trees of many operands: greedy ones, and parts of them solved exactly
``network.py``       the operands as bit masks over their labels, and the best trees over few of them
``choices.py``       paths worth a closer look, and those that a caller's choice stands for
===================  =======================================================================================
"""
