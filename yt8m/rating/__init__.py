"""Rating segments of films in the browser, and choosing which are worth a rating."""
