"""The judges' answers: read from logs, stored, joined to our jobs, and turned into advice on the gate."""
