"""What judges downstream say of the results: their log lines read, kept, joined to our jobs, and turned into advice."""
