"""Experiment configurations, one file per thing a person runs."""
