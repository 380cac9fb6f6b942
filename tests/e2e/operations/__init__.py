"""What an operator sees of a node: its end with the machine, its callers, files and images, what it asks and tells.

A package, so that one cluster (`conftest`) serves all of its files.
"""
