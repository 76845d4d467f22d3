"""Configuration keys, errors, exit statuses, devices and progress, for all parts. Imports no other part."""
