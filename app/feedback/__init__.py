"""The judges' answers: reads them from logs, stores them, joins them to jobs, and derives advice on the gate."""
