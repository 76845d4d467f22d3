"""How good submissions, predictions and models are: ratings, MAP@K, intervals, models on shards they have not seen."""
