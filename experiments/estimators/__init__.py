"""Sampled ESVs measured against known ones; `python -m experiments.estimators`."""
