"""Draws figure 9 from the command line."""

import sys

from experiments.play_fair import fig9
from experiments.play_fair.figure import main

if __name__ == "__main__":
    sys.exit(main("fig9", fig9.__doc__, fig9.measure))
