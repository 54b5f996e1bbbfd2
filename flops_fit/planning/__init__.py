"""What to run next: beliefs about the law, the worth of a run, an adaptive sweep's decisions."""
