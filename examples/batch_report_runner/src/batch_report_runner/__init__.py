"""Picks leads, previews what reports on them cost, runs them on the bus, and shows the progress live."""
