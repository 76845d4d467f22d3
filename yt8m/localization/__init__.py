"""When classes appear in the videos of one file: spans of neighbouring segments, as a table, JSON or CSV."""
