"""Convolutions as einsums: expressions over symbolic index patterns, simplified and computed fast."""
