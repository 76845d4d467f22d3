"""Pre-training and fine-tuning: losses, metrics, what a run is made of, and that it goes on when it was killed."""
