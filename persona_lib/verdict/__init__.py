"""Verdicts: gates, claims and the kill criterion as conditions, other looks, power before data."""
