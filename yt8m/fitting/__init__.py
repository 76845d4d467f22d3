"""From features, labels and ratings to a model that localizes, without a configuration to write."""
