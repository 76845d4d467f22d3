"""Fitting a localization model to features, labels and ratings, without configurations."""
