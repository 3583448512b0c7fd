"""Which path with which loops stays within a limit, and is fastest.

====================  ======================================================================================
file                  holds
====================  ======================================================================================
``find_schedule.py``  the search, from an equation and a limit to a schedule
``long_networks.py``  the same for many operands, whose paths are searched for little memory too
``sparing.py``        which labels of a path are cut, and which path is best for cut labels
``rotating.py``       paths that trade multiplications for memory, by simulated annealing
``account.py``        what a path with blocks takes, told from the tree alone
``fitting.py``        which loops keep one path within a limit
``moves.py``          which loops could help where the most memory is in use
``problem.py``        what is looked for, and what was found
``skeleton.py``       what a schedule takes, for blocks of any lengths, quickly
``events.py``         what skeletons are made from, and what they tell
``hoisting.py``       how far out loads go, where memory is left
====================  ======================================================================================
"""
