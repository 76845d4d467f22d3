"""Writing shards from users' arrays and tables, and small synthetic data to try things on."""
