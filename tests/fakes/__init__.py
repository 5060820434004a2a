"""Fakes for time and faults; nothing here stands in for a class of ours."""
