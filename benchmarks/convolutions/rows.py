"""All rows, in the order of the results."""

from ..contests.row import Row
from . import factors, unfolding
from .factors import KFAC_REDUCE, KFC
from .models import MODELS
from .products import CONVOLUTIONS, FOUR, TRANSPOSES
from .typical import Typical
from .unfolding import AVERAGED, UNFOLDED

__all__ = ["ROWS", "TYPICAL"]

ROWS: tuple[Row, ...] = (
    *CONVOLUTIONS,
    *TRANSPOSES,
    *FOUR,
    *UNFOLDED,
    *AVERAGED,
    *KFAC_REDUCE,
    *KFC,
    *MODELS,
)

TYPICAL: tuple[Typical, ...] = (*unfolding.TYPICAL, *factors.TYPICAL)
