"""How fast this processor adds and takes maxima: the ceiling of a tropical matrix product.

A term of a real matrix product is one instruction, a fused multiply-add; one of max_plus is two, an addition
and a maximum, which compete for the same units. This runs those two alone, on registers: nothing is loaded,
packed or stored. It needs a C compiler and an x86-64 processor.
"""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch

from ..contests.row import Call

__all__ = ["CEILING", "additions_and_maxima"]

CEILING = "add and maximum alone"

SOURCE = """
#include <immintrin.h>
#include <stdint.h>
#if defined(__AVX512F__)
#define LANES 16
#define VEC __m512
#define ADD _mm512_add_ps
#define MAX _mm512_max_ps
#define SET _mm512_set1_ps
#elif defined(__AVX__)
#define LANES 8
#define VEC __m256
#define ADD _mm256_add_ps
#define MAX _mm256_max_ps
#define SET _mm256_set1_ps
#else
#define LANES 4
#define VEC __m128
#define ADD _mm_add_ps
#define MAX _mm_max_ps
#define SET _mm_set1_ps
#endif
/* Independent chains hide the latency of both instructions; there are registers for all of them. */
#define CHAINS 10
float additions_and_maxima(int64_t pairs) {
    VEC best[CHAINS], x = SET(1.0f), y = SET(2.0f);
    for (int chain = 0; chain < CHAINS; chain++) best[chain] = SET((float)chain);
    for (int64_t done = 0; done < pairs; done += LANES * CHAINS) {
#pragma GCC unroll 10
        for (int chain = 0; chain < CHAINS; chain++) {
            __asm__("" : "+v"(x)); /* or the compiler would add once, before the loop */
            best[chain] = MAX(best[chain], ADD(x, y));
        }
    }
    float result[LANES];
    for (int chain = 1; chain < CHAINS; chain++) best[0] = MAX(best[0], best[chain]);
    __builtin_memcpy(result, &best[0], sizeof result);
    return result[0];
}
"""


def additions_and_maxima(pairs: int) -> Call | None:
    """A call that makes so many additions with maxima of float32, on as many threads as torch has.

    Args:
        pairs: how many; n³ for a matrix product.

    Returns:
        The call; None where there's no compiler or another kind of processor.
    """
    library = _library()
    if library is None:
        return None

    def call() -> object:
        threads = torch.get_num_threads()
        if threads == 1:
            return library.additions_and_maxima(pairs)
        return list(_pool(threads).map(library.additions_and_maxima, [pairs // threads] * threads))

    return call


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


@cache
def _library() -> ctypes.CDLL | None:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or platform.machine() not in ("x86_64", "AMD64"):
        return None
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "ceiling.c"), Path(folder, "ceiling.so")
        source.write_text(SOURCE, encoding="utf-8")
        command = [compiler, "-O2", "-march=native", "-shared", "-fPIC", "-o", str(target), str(source)]
        if subprocess.run(command, capture_output=True, check=False).returncode != 0:
            return None
        library = ctypes.CDLL(str(target))
    library.additions_and_maxima.argtypes = [ctypes.c_int64]
    library.additions_and_maxima.restype = ctypes.c_float
    return library
