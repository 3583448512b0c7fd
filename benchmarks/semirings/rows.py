"""All rows, in the order of the results."""

from ..contests.row import Row
from .algorithms import ALGORITHMS
from .contractions import CONTRACTIONS
from .limited import LIMITED
from .matrices import BOOLEAN, LOG, TROPICAL

__all__ = ["ROWS"]

ROWS: tuple[Row, ...] = (*LOG, *TROPICAL, *BOOLEAN, *CONTRACTIONS, *ALGORITHMS, *LIMITED)
