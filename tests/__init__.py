"""The tests of einfx; helpers that several of them use are `tests.rewriting` and `tests.strategies`."""
