"""The interface of genbmm over einfx: batches of matrix products over other algebras, and banded matrices.

genbmm runs on CUDA alone and is built from source; this runs wherever torch does, in float32 and float64 (and
the halves), and its products are einfx's kernels. torch-struct's ``FastLogSemiring``, ``FastMaxSemiring`` and
``FastSampleSemiring``, and its ``Alignment``, need nothing else:

    >>> program = '''
    ... import einfx.compat
    ... einfx.compat.install("genbmm")  # before torch_struct is imported
    ... import genbmm, torch
    ... a = torch.tensor([[[0.0, 1.0]]])
    ... print(genbmm.maxbmm(a, a.mT))
    ... '''
    >>> import subprocess, sys
    >>> print(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout)
    tensor([[[2.]]])

Where genbmm's kernels take -1e9 for the smallest number, let an unlucky draw fall on the first term, or read
past the end of operands that don't fit, these give the true result, or an error.
"""

from .genmul import logbmm, maxbmm, prodmaxbmm, samplebmm
from .sparse import BandedMatrix, banddiag

__version__ = "0.1"

__all__ = ["BandedMatrix", "banddiag", "logbmm", "maxbmm", "prodmaxbmm", "samplebmm"]
