"""Japanese vowels: exact and sampled ESVs on real sequences of varying length.

Nine speakers say /ae/; an utterance is 7 to 29 elements of 12 cepstral coefficients, with 270 to
train on and 370 to test with (Kudo, Toyama & Shimbo, 1999).

Claims:
  1. Multi-scale heads of scales 1..8 classify at least 95 % of the test utterances
     correctly when f^ms uses all elements.
  2. Exact ESVs of the true class rank elements correctly: averaged over the number dropped,
     accuracy is higher when the most distracting elements are dropped first than in random order,
     and lower when the most supporting are dropped first.
  3. Exact ESVs sum to score - prior to within 1e-5.

    python -m experiments.japanese_vowels
"""

import sys
from functools import partial

from experiments import series

main = partial(series.main, series.Experiment("japanese_vowels", "JapaneseVowels", 0.95, __doc__))

if __name__ == "__main__":
    sys.exit(main())
