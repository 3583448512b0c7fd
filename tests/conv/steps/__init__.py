"""Tests of single steps, and of what they are predicted to cost."""
