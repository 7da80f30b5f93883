"""Masks of STEP and other attribution maps of synthetic videos."""
