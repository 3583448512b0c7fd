"""Kernels: how one step of a plan is computed.

Start with ``real.py`` for real numbers and with ``steps.py`` for everything else. By the beginning of their
names the files belong together:

=================================  =======================================================================
``real``, ``helpers``, ``results``  real numbers: what is emitted, what emitted code calls, what that returns
``product_sum``                     sums of large products, and large products, for autograd
``written``                        functions written from what is emitted
``steps``                          a step over a semiring, handed to one of the kernels below
``log``                            matrix products over log; the public function is ``log.matmul``
``tropical``                       over max_plus and relatives; ``tropical.matmul``
``boolean``                        over boolean; ``boolean.matmul``
``blocked``                        any number of operands over any semiring; ``blocked.contract``
``scriptable``                     all of these in the words of TorchScript; ``contract_semiring``
``batching``, ``selected_product``  what several of them share
``windows_native``                 windows of convolutions, copied (``_windows.c``)
=================================  =======================================================================

Behind ``log.py``: ``log_options`` (what is asked for), ``log_autograd`` (modes of autograd), ``log_sums`` and
``log_posteriors`` (values and derivatives), ``log_operands`` and ``log_scaling`` (exponentials that can be
multiplied), ``log_rescue``, ``log_unsafe`` and ``log_terms`` (what underflows), ``log_native`` (``_log.c``).
Behind ``blocked.py``: ``blocked_loops`` (going through blocks), and a file for each kind of sum;
``log_strided`` (``_log_strided.c``) and ``log_shares``: sums over logarithms and their gradients, written
where they go.
"""

from __future__ import annotations
