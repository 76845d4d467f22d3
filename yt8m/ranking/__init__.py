"""From prediction files to a submission: fusion of models, the best segments of each class, the CSV."""
