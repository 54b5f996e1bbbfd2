"""Tables of a report and the formats they are printed in."""
