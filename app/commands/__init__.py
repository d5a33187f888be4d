"""Command groups of the appliance, a module each; registered in `app.__main__`, and importing what they run only then."""
