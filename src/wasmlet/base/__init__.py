"""What at least two rooms need: errors, files, paths beneath a directory, quantities, tasks. Imports nothing above."""
