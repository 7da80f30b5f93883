"""Do masks of STEP hold the evidence? The experiment of attribution by perturbation."""
