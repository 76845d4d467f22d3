"""Films to one feature vector per second: decoding, extractors, shards."""
