"""Basic motions: exact and sampled ESVs on real sequences of 100 elements.

Recordings of a smart watch while its wearer stands, walks, runs or plays badminton: 100 elements
of 6 channels, 40 recordings to train on and 40 to test with (UEA archive; Bagnall et al., 2018).

Claims:
  1. Multi-scale heads of scales 1..8 classify at least 97.5 % of the test recordings
     correctly when f^ms uses all elements.
  2. Exact ESVs of the true class rank elements correctly: averaged over the number dropped,
     accuracy is higher when the most distracting elements are dropped first than in random order,
     and lower when the most supporting are dropped first.
  3. Exact ESVs sum to score - prior to within 1e-5.

    python -m experiments.basic_motions
"""

import sys
from functools import partial

from experiments import series

main = partial(series.main, series.Experiment("basic_motions", "BasicMotions", 0.975, __doc__))

if __name__ == "__main__":
    sys.exit(main())
