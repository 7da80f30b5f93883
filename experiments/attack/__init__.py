"""Attacks on what a user would lose or a stranger could exploit."""
