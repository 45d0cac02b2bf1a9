"""The StatementReport application: a real user of the bus, by which the whole is tested."""
