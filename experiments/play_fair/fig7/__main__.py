"""Draws figure 7 from the command line."""

import sys

from experiments.play_fair import fig7
from experiments.play_fair.figure import main

if __name__ == "__main__":
    sys.exit(main("fig7", fig7.__doc__, fig7.measure))
