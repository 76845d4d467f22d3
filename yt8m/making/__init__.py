"""How shards are made: of arrays and tables that users have, and of a small made-up world to try things on."""
