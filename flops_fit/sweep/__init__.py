"""Open, run and conclude a sweep, with its ledger and run directory."""
