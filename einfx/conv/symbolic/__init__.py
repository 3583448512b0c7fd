"""Contractions with patterns on symbols alone: as data, simplified by the structure of their patterns.

===================  ==========================================================================
file                 holds
===================  ==========================================================================
``network.py``       a contraction as data: an equation with views, patterns and numbers
``views.py``         what a simplified contraction does to an operand first, as data
``simplify.py``      simplification, and simplified contractions for tensors
``rules.py``         its rules, which rewrite a network as a draft
``draft.py``         a network while it is rewritten
``composition.py``   two patterns in a row as one
===================  ==========================================================================
"""
