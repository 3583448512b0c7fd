"""Tests of plans, with and without a memory limit."""
