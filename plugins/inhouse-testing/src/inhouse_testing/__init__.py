"""What every plugin has to hold, as functions for tests: ``conformance``, ``trainers``, ``recording``."""
