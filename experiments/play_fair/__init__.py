"""Figures of Price & Damen (2020) on synthetic and real sequences, one module per figure."""
