"""Trials on Ray: this machine's, a cluster's, or as a Ray job."""
