"""From a run directory or a table to a verdict, tables, figures and a page."""
