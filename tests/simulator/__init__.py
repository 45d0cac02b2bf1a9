"""The simulator: logical workers, routers, operators and a clock, whose steps a seed puts in order."""
