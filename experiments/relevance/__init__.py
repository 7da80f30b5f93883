"""Does relevance find the motion? The experiment of selective and discriminative relevance."""
