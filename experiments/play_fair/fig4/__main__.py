"""Draws figure 4 from the command line."""

import sys

from experiments.play_fair import fig4
from experiments.play_fair.figure import main

if __name__ == "__main__":
    sys.exit(main("fig4", fig4.__doc__, fig4.measure))
