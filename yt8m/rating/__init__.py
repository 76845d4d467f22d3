"""Rating segments of films in the browser, and choosing the most useful ones."""
