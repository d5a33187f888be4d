"""The commands, a module for each group; app.commands.main lists them. What a command runs is imported on demand."""
