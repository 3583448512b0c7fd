"""Expressions, a module for each, with patterns as tensors."""
