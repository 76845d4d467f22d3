"""From films to one vector of features a second: decoding, extractors, shards."""
