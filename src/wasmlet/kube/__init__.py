"""Kubernetes objects: their types, and manifests read from YAML. Later, the one way to the API server."""
