"""From trained models and videos to probabilities, and the memory-mapped files that keep them."""
