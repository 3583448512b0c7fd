"""Tests of convolutions as einsums; `tests.conv.reference` holds the oracles and random hyper-parameters."""
