"""Selective and discriminative relevance of synthetic videos."""
