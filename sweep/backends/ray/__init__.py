"""Backends on Ray: on this machine, on a cluster, or as a job of a cluster."""
