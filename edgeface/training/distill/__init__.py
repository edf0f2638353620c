"""Learning from trained models: their embeddings, and their feature maps."""
