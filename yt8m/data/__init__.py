"""From TFRecord shards to batches: records, their index, frames, the order of examples, the test segments' list."""
