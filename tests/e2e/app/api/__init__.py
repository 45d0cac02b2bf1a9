"""The HTTP API of the application."""
