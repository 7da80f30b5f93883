"""The settings of training."""

from __future__ import annotations

from dataclasses import dataclass

from esv_jax import checks


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run; with the data they determine its result on one backend."""

    n_max: int = 8
    """Largest scale that gets its own head; for average consensus, elements drawn per step."""
    hidden_dim: int = 256
    """Hidden width of each head (unused by average consensus)."""
    n_hidden_layers: int = 1
    """Hidden layers of each head (unused by average consensus)."""
    input_relu: bool = False
    """Pass features through a ReLU before the first layer."""
    standardise: bool = True
    """Train on features of mean 0 and standard deviation 1, folded back into the first layer
    afterwards. Features that pass a ReLU first are left as they are."""
    dropout: float = 0.5
    """Chance that a hidden activation (average consensus: a feature) is dropped in training."""
    batch_norm: bool = False
    """Normalise each hidden layer before its ReLU (unused by average consensus)."""
    learning_rate: float = 3e-3
    """Highest learning rate of AdamW, reached after the warm-up, then a cosine down to 0."""
    weight_decay: float = 1e-2
    """AdamW's decay of weights (not of biases and norms)."""
    warmup_fraction: float = 0.05
    """Share of all steps in which the learning rate climbs from 0."""
    batch_size: int = 64
    """Sequences per step; every scale draws one subsequence from each."""
    max_epochs: int = 200
    """Passes over the training sequences, unless stopped early; sets the length of the cosine."""
    patience: int = 30
    """Stop after this many epochs without a better validation accuracy."""
    validation_fraction: float | None = None
    """Share of each class held out for validation where no validation set is given; default a tenth
    of each class, at least one of each that has two. At 0, or where no class has two, the last
    epoch is kept instead of the best."""
    validation_subsequences: int = 16
    """Subsequences of each scale that estimate the validation accuracy (the same every epoch)."""
    prior_smoothing: float = 0.0
    """Examples added to each class before counting the class prior. At 0 the prior is the
    relative frequency, and a class without examples has prior 0."""
    seed: int = 0
    """Seed of everything random: initial weights, split, order, subsequences, dropout."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        for name in ("n_max", "hidden_dim", "n_hidden_layers", "batch_size", "max_epochs"):
            checks.expect_int(name, getattr(self, name), minimum=1)
        for name in ("patience", "validation_subsequences"):
            checks.expect_int(name, getattr(self, name), minimum=1)
        checks.expect_int("seed", self.seed, minimum=0)
        for name in ("dropout", "warmup_fraction", "validation_fraction"):
            value = getattr(self, name)
            is_share = value is None or 0 <= value < 1
            checks.expect(is_share, name, "a share in [0, 1)", value)
        for name in ("weight_decay", "prior_smoothing"):
            value = getattr(self, name)
            checks.expect(0 <= value < float("inf"), name, "a finite number >= 0", value)
        rate = self.learning_rate
        checks.expect(0 < rate < float("inf"), "learning_rate", "a finite number > 0", rate)
