"""See conftest for the rules."""
