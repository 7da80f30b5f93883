"""Draws figure 8 from the command line."""

import sys

from experiments.play_fair import fig8
from experiments.play_fair.figure import main

if __name__ == "__main__":
    sys.exit(main("fig8", fig8.__doc__, fig8.measure))
