"""Scenarios of the sample in service/; they run only when it is rehearsed."""
