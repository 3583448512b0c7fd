"""Tests of what tensors go through where patterns are."""
