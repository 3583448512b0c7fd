"""Moving blocks of tensors from and to elsewhere, in the background.

================  ==========================================================================================
file              holds
================  ==========================================================================================
``pieces.py``     copies in small parts, between which they can be stopped
``movers.py``     how a part gets from host memory, a file or a device to another
``transfers.py``  the one interface: blocks are asked for, moved one behind the other, and waited for
================  ==========================================================================================
"""
