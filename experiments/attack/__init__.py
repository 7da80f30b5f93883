"""Attacks on stored results, readers of files, commands and the dashboard."""
