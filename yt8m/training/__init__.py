"""Pre-training and fine-tuning: losses, metrics, experiments, resumable runs."""
