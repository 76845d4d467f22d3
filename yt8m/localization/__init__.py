"""Localization of classes in videos: spans of neighbouring segments, as a table, JSON, CSV or subtitles."""
