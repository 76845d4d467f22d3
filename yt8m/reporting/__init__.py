"""HTML pages: the report, with scores, curves and timelines, and the page to watch films on."""
