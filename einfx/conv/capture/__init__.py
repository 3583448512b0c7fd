"""Convolutions of a graph, with all that is linear around them, as one contraction.

=================  ==========================================================================
file               holds
=================  ==========================================================================
``readings.py``    what a call says, as a contraction with patterns
``spellings.py``   every way in which torch and einfx spell such a call
``forms.py``       a linear program as one contraction, put together piece by piece
``pieces.py``      what each node computes that a convolution can be joined with
``regions.py``     which nodes around a convolution are one program
``averages.py``    an average of a convolution as a convolution alone
``writing.py``     a program weighed by its plan, and written into the graph
=================  ==========================================================================
"""
