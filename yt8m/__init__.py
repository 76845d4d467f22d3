"""Temporal concept localization on YouTube-8M segments: say *when* a concept appears in a video."""

__version__ = "1.0.0"
