"""Tests of contractions with patterns on symbols alone."""
