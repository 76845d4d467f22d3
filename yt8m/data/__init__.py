"""From TFRecord shards to batches: records, index, frames, order of examples, candidate segments."""
