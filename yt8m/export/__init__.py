"""Trained models as one ONNX file for programs that do not have this package."""
