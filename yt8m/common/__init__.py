"""What every part needs: configurations, errors, files that appear whole, devices. Knows no other part."""
