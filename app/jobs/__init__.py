"""Durable jobs: requests, their queue and state, and their results."""
