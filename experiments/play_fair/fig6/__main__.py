"""Draws figure 6 from the command line."""

import sys

from experiments.play_fair import fig6
from experiments.play_fair.figure import main

if __name__ == "__main__":
    sys.exit(main("fig6", fig6.__doc__, fig6.measure))
