"""What a pairwise step costs, and so which kernel computes it.

========================  ==================================================================================
file                      holds
========================  ==================================================================================
``step_kernel.py``        kernels of a step as data
``situation.py``          what decides between them: sizes, dtype, machine, and what is asked
``matrix_candidates.py``  the best order of labels for a product of matrices
``candidates.py``         the fastest of all kernels that compute a step
``cost.py``               what a step over real numbers costs
``semiring_cost.py``      the same over semirings
========================  ==================================================================================
"""
