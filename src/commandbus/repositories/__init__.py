"""Thin: a statement, its parameters, its parser; one module a table."""
