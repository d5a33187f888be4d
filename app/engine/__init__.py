"""The engine: one process for each GPU. It loads the models, tests itself, and runs jobs.

It ends rather than go on in doubt: on a GPU error that poisons the process, on a stage that hangs, on a database that
is gone. The supervisor restarts it, and its job goes on after the last finished step.
"""
