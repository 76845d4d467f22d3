"""What makes features of frames and sound: a file for each extractor, registered by its name."""
