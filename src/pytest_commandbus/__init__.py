"""The pytest plugin of commandbus."""
