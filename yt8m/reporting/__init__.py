"""The HTML report: scores, curves and timelines on one page."""
