"""Draws figure 5 from the command line."""

import sys

from experiments.play_fair import fig5
from experiments.play_fair.figure import main

if __name__ == "__main__":
    sys.exit(main("fig5", fig5.__doc__, fig5.measure))
