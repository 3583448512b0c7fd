"""Which path with which loops stays within a limit, and is fastest.

====================  ======================================================================================
file                  holds
====================  ======================================================================================
``find_schedule.py``  the search, from an equation and a limit to a schedule
``fitting.py``        which loops keep one path within a limit
``moves.py``          which loops could help where the most memory is in use
``skeleton.py``       what a schedule takes, for blocks of any lengths, quickly
``events.py``         what skeletons are made from, and what they tell
``hoisting.py``       how far out loads go, where memory is left
====================  ======================================================================================
"""
