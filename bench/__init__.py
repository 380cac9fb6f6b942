"""What the README claims, measured by `make bench`. Measurements, not tests: nothing fails on a slow day."""
