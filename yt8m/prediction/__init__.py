"""Probabilities of trained models for videos, in memory-mapped files; models as ONNX files."""
