"""Statements, their parameters and their parsers; connections."""
