"""The engine: one process for each GPU. It loads the models, tests itself, and runs jobs.

It exits if it cannot continue safely: after a GPU error that poisons the process, if a stage hangs, or if the database
is gone. The supervisor restarts it, and its job continues after the last finished step.
"""
