"""Draws figure 2 from the command line."""

import sys

from experiments.play_fair import fig2
from experiments.play_fair.figure import main

if __name__ == "__main__":
    sys.exit(main("fig2", fig2.__doc__, fig2.measure))
