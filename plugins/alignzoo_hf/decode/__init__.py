"""Generation: our own engine, transformers' two, and mixtures of models."""
