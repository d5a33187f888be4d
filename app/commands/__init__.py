"""The appliance's command groups, a module each, registered in `app.__main__`; what they run is imported only then."""
