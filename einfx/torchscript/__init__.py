"""Contractions in the subset of Python that TorchScript takes; what ``jitable`` writes into a graph.

======================  ======================================================================================
file                    holds
======================  ======================================================================================
``einsums.py``          einsums: equations as text, semirings by functions of torch alone
``patterns.py``         the same with index patterns among the operands
``convolutions.py``     convolutions of any number of dimensions
======================  ======================================================================================
"""
