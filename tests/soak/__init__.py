"""The long proof: simulated schedules, bad input, and a campaign of real faults against real worker processes."""
