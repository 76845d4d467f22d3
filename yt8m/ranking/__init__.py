"""Submissions from prediction files: fusion of models, the best segments of each class, the CSV."""
