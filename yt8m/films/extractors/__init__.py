"""Extractors of features from frames and sound, a module each, registered by name."""
