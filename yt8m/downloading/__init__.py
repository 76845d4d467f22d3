"""How shards are fetched: what a plan names, one file over HTTP, many at a time, and which are known to be right."""
