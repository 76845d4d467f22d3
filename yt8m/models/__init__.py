"""NeXtVLAD, context-gated DBoF, the segment classifiers made of them, and folders of trained models."""
