"""Faults of the machinery, not of handlers: processes killed, sessions ended, servers crashed, networks cut."""
