"""Trained models as one file for programs that do not have this package."""
