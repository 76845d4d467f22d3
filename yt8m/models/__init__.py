"""NeXtVLAD, context-gated DBoF and the segment classifiers made of them, and the folders that hold trained ones."""
