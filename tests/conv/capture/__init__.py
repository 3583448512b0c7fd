"""Tests of capturing convolutions in graphs."""
