"""Scores of submissions, predictions and models: ratings, MAP@K, intervals, predictions on unseen shards."""
