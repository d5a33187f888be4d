"""Durable jobs: what is asked for, what has become of it, and where the results lie."""
