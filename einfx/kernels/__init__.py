"""Kernels: how one pairwise step is computed."""

from __future__ import annotations
