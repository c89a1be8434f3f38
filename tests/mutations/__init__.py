"""Security-critical lines, broken one at a time: every break has to be noticed by a test."""
