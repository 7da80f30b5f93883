"""Draws figure 3 from the command line."""

import sys

from experiments.play_fair import fig3
from experiments.play_fair.figure import main

if __name__ == "__main__":
    sys.exit(main("fig3", fig3.__doc__, fig3.measure))
