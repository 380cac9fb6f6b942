"""Kubernetes objects: their types, manifests read from YAML, and the only code that talks to an API server.

In comes a kubeconfig (`kubeconfig` → `Access`), out go typed answers (`client`), streams of changes (`watch`),
ConfigMaps and Secrets that are kept up to date (`objects_cache`, or `objects` without a cluster), tokens of pods
(`tokens`) and events (`events`). `errors` says what an answer means for the caller. Nothing here knows what a node is.
"""
