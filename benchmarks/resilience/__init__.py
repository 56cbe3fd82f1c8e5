"""Loads servers until they are overloaded, break or grow, and compares what happens with what is promised."""
