"""The passes, and the order in which :func:`einfx.optimize` applies them."""

from __future__ import annotations

from ..rewrite import Pass
from .capture_convolutions import CaptureConvolutions
from .capture_matmuls import CaptureMatmuls
from .capture_semirings import CaptureSemirings
from .choose_paths import ChoosePaths
from .drop_unit_dimensions import DropUnitDimensions
from .fold_constants import FoldConstants
from .fold_scalars import FoldScalars
from .fuse_einsums import FuseEinsums
from .jitable import Jitable
from .limit_memory import LimitMemory
from .lower_kernels import LowerKernels
from .lower_patterns import LowerPatterns
from .normalize_einsums import NormalizeEinsums
from .place_scalars import PlaceScalars
from .remove_unused import RemoveUnused
from .share_contractions import ShareContractions
from .simplify_patterns import SimplifyPatterns

__all__ = [
    "DEFAULT",
    "WITH_CONVOLUTIONS",
    "CaptureConvolutions",
    "CaptureMatmuls",
    "CaptureSemirings",
    "ChoosePaths",
    "DropUnitDimensions",
    "FoldConstants",
    "FoldScalars",
    "FuseEinsums",
    "Jitable",
    "LimitMemory",
    "LowerKernels",
    "LowerPatterns",
    "NormalizeEinsums",
    "PlaceScalars",
    "RemoveUnused",
    "ShareContractions",
    "SimplifyPatterns",
]

DEFAULT: tuple[Pass, ...] = (
    RemoveUnused(),  # a use that is none would keep values apart
    NormalizeEinsums(),  # one spelling of an einsum, for every pass that follows
    CaptureMatmuls(),  # products in other spellings, where they have a contraction beside them
    CaptureSemirings(),  # logsumexp and max of broadcast sums, which need never be made
    DropUnitDimensions(),  # a broadcast product without its unit dimension is a matrix product
    FoldScalars(),  # numbers go out of the way of fusion
    FoldConstants(),  # what depends on constants alone needs no path
    SimplifyPatterns(),  # a convolution that is a matrix product fuses as one
    FuseEinsums(),  # the more a contraction holds, the freer its path
    ShareContractions(),  # equal contractions, before each gets a path of its own
    LimitMemory(),  # whole contractions, which can be cut, and aren't split into steps that can't
    ChoosePaths(),  # from here on, every contraction has one or two operands
    SimplifyPatterns(),  # steps of a path that are matrix products of views
    FoldConstants(),  # steps of a path that join constants alone
    ShareContractions(),  # equal steps of different paths
    PlaceScalars(),  # the factor goes to the smallest tensor, which only the path shows
    LowerPatterns(),  # native convolutions, whose reshapes are no contractions
    LowerKernels(),  # last: what it writes is no longer read as a contraction
)
"""What :func:`einfx.optimize` applies, in this order."""

WITH_CONVOLUTIONS: tuple[Pass, ...] = (CaptureConvolutions(), *DEFAULT)
"""The same for models with convolutions, which join what stands beside them."""
