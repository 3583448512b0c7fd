"""Tests of contractions with patterns over other semirings."""
