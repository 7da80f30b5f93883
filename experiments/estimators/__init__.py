"""Accuracy of sampled ESVs by model evaluations."""
