"""Recorded runs under other rules, without a model."""
